/* The conformance client: client BUS, with a command a line on its standard input. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <trine.h>
#include <unistd.h>

static trine_client *client, *helper;
/* What was begun, and is to be waited for by a later command. */
static trine_ticket begun, scattering;

static void say(trine_status status, const trine_reply *reply, trine_client *of) {
    printf("%s ran=%d code=%" PRIu32 " needed=%" PRIu64, trine_status_name(status), (reply->flags & TRINE_RAN) != 0,
           reply->code, reply->needed);
    if (status == TRINE_WORKER_ERROR) printf(" %s", trine_error(of));
}

/* Says how a call ended, and its text. */
static void ended(trine_status status, trine_reply *reply) {
    if (status == TRINE_OK) printf("OK%s%.*s", reply->len ? " " : "", (int)reply->len, (const char *)reply->data);
    else say(status, reply, client);
    trine_reply_free(client, reply);
}

static int route(trine_client *of, const char *service, const char *operation, trine_route *out) {
    const trine_reply none = TRINE_INIT(trine_reply);
    trine_status status = trine_route_of(of, service, operation, out);
    if (status != TRINE_OK) say(status, &none, of);
    return status == TRINE_OK;
}

static void text(const char *operation, const char *data, const trine_call_args *args) {
    trine_route to;
    trine_reply reply = TRINE_INIT(trine_reply);
    if (!route(client, "conformance", operation, &to)) return;
    ended(trine_call(client, to, data, strlen(data), args, &reply), &reply);
}

static void fill(unsigned char *bytes, size_t len) {
    for (size_t i = 0; i < len; i++) bytes[i] = (unsigned char)(i % 251);
}

static void sized(const char *operation, size_t len, int in_place, uint64_t room) {
    trine_route to;
    trine_reply reply = TRINE_INIT(trine_reply);
    trine_call_args args = TRINE_INIT(trine_call_args);
    unsigned char *expected = malloc(len + 1);
    trine_status status;
    if (!expected || !route(client, "conformance", operation, &to)) exit(1);
    fill(expected, len);
    args.reply_capacity = room;
    if (in_place) {
        void *loan;
        trine_ticket ticket = 0;
        status = trine_loan(client, to, len, TRINE_FOREVER, &loan);
        if (status == TRINE_OK) {
            fill(loan, len);
            status = trine_send_loan(client, loan, len, &args, TRINE_FOREVER, &ticket);
        }
        if (status == TRINE_OK) status = trine_wait(client, ticket, TRINE_FOREVER, &reply);
    } else {
        status = trine_call(client, to, expected, len, &args, &reply);
    }
    if (status == TRINE_OK) {
        int same = reply.len == len && memcmp(reply.data, expected, len) == 0;
        printf("OK %" PRIu64 " %s", reply.len, same ? "same" : "other");
    } else {
        say(status, &reply, client);
    }
    trine_reply_free(client, &reply);
    free(expected);
}

/* What the worker says about what it holds, by another client: this one may have no slot free. */
static const char *ask(const char *operation) {
    static char said[64];
    trine_route to;
    trine_reply reply = TRINE_INIT(trine_reply);
    if (!route(helper, "conformance", operation, &to)) exit(1);
    if (trine_call(helper, to, NULL, 0, NULL, &reply) != TRINE_OK) exit(1);
    snprintf(said, sizeof said, "%.*s", (int)reply.len, (const char *)reply.data);
    trine_reply_free(helper, &reply);
    return said;
}

static void until_held(const char *expected) {
    while (strcmp(ask("held"), expected) != 0) usleep(1000);
}

static trine_status hold(int64_t timeout_ns, trine_ticket *out) {
    trine_route to;
    if (!route(client, "conformance", "hold", &to)) exit(1);
    return trine_submit(client, to, NULL, 0, NULL, timeout_ns, out);
}

static void looked_at(void) {
    trine_ticket ticket;
    trine_reply reply = TRINE_INIT(trine_reply);
    hold(TRINE_FOREVER, &ticket);
    until_held("1 0");
    printf("%s ", trine_status_name(trine_poll(client, ticket, &reply)));
    ask("release");
    ended(trine_wait(client, ticket, TRINE_FOREVER, &reply), &reply);
}

static void cancelled(void) {
    trine_ticket ticket;
    hold(TRINE_FOREVER, &ticket);
    until_held("1 0");
    if (trine_cancel(client, ticket) != TRINE_OK) exit(1);
    until_held("1 1");
    printf("OK %s", ask("held"));
    ask("release");
}

static void full(void) {
    const trine_reply none = TRINE_INIT(trine_reply);
    trine_ticket tickets[64];
    trine_status status;
    int count = 0;
    while ((status = hold(0, &tickets[count])) == TRINE_OK) count++;
    printf("%d ", count);
    say(status, &none, client);
    until_held("8 0"); /* what is not begun when it is given up never is */
    while (count > 0) trine_cancel(client, tickets[--count]);
    until_held("8 8");
    ask("release");
}

static void posted(const char *data) {
    trine_route note;
    if (!route(client, "conformance", "note", &note)) return;
    if (trine_post(client, note, data, strlen(data), NULL, TRINE_FOREVER) != TRINE_OK) exit(1);
    text("noted", "", NULL);
}

static void on_alarm(int signal) { (void)signal; }

static void interrupted(void) {
    const struct itimerval soon = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    trine_ticket ticket;
    trine_reply reply = TRINE_INIT(trine_reply);
    hold(TRINE_FOREVER, &ticket);
    until_held("1 0");
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &soon, NULL);
    printf("%s ", trine_status_name(trine_wait(client, ticket, TRINE_FOREVER, &reply)));
    setitimer(ITIMER_REAL, &never, NULL);
    ask("release");
    ended(trine_wait(client, ticket, TRINE_FOREVER, &reply), &reply);
}

static void forked(void) {
    int status;
    trine_reply reply = TRINE_INIT(trine_reply);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(trine_call(client, 0, NULL, 0, NULL, &reply));
    waitpid(child, &status, 0);
    printf("%s", trine_status_name(WEXITSTATUS(status)));
}

static void keyed(const char *kind, const char *word) {
    trine_call_args args = TRINE_INIT(trine_call_args);
    if (strcmp(kind, "number") == 0) args.key = TRINE_KEY(strtoull(word, NULL, 10));
    if (strcmp(kind, "name") == 0 && trine_key_of(client, word, &args.key) != TRINE_OK) exit(1);
    text("key", "", &args);
}

static void unheld(void) {
    trine_route to;
    trine_reply reply = TRINE_INIT(trine_reply);
    trine_call_args args = TRINE_INIT(trine_call_args);
    args.key = TRINE_KEY(1);
    if (route(client, "exclusive", "echo", &to)) ended(trine_call(client, to, NULL, 0, &args, &reply), &reply);
}

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

static void scattered(trine_ticket ticket) {
    char said[64][64];
    int count = 0, last = ticket == 0;
    while (!last) {
        trine_reply reply = TRINE_INIT(trine_reply);
        trine_status status = trine_wait(client, ticket, TRINE_FOREVER, &reply);
        if (status < 0) exit(1);
        int at = snprintf(said[count], 64, "%" PRIu64 ":%s", reply.key_mask, trine_status_name(status));
        if (status == TRINE_OK) snprintf(said[count] + at, (size_t)(64 - at), ":%.*s", (int)reply.len, (const char *)reply.data);
        last = (reply.flags & TRINE_LAST) != 0;
        count++;
        trine_reply_free(client, &reply);
    }
    qsort(said, (size_t)count, sizeof said[0], by_text);
    printf("%d", count);
    for (int i = 0; i < count; i++) printf(" %s", said[i]);
}

/* As many calls as may wait on a resource that nobody holds, and one more. */
static void crowd(void) {
    trine_route to;
    trine_ticket waiting[8];
    trine_reply reply = TRINE_INIT(trine_reply);
    trine_call_args args = TRINE_INIT(trine_call_args);
    args.key = TRINE_KEY(1);
    if (!route(helper, "patient", "echo", &to)) return;
    for (int i = 0; i < 8; i++) {
        if (trine_submit(helper, to, NULL, 0, &args, TRINE_FOREVER, &waiting[i]) != TRINE_OK) exit(1);
    }
    printf("8 ");
    say(trine_call(helper, to, NULL, 0, &args, &reply), &reply, helper);
    trine_reply_free(helper, &reply);
    for (int i = 0; i < 8; i++) trine_cancel(helper, waiting[i]);
}

static void connected(const char *bus) {
    trine_client *other;
    printf("%s", trine_status_name(trine_connect(bus, NULL, &other)));
    trine_close(other);
}

static void begin(const char *service, const char *operation) {
    trine_route to;
    if (!route(client, service, operation, &to)) return;
    if (trine_submit(client, to, NULL, 0, NULL, TRINE_FOREVER, &begun) != TRINE_OK) exit(1);
    printf("OK");
}

static void end(void) {
    trine_reply reply = TRINE_INIT(trine_reply);
    ended(trine_wait(client, begun, TRINE_FOREVER, &reply), &reply);
}

static trine_ticket scatter(char *numbers) {
    trine_route to;
    trine_key keys[64];
    trine_ticket ticket;
    size_t count = 0;
    if (!route(client, "parts", "sum", &to)) exit(1);
    for (char *word = strtok(numbers, " "); word; word = strtok(NULL, " ")) keys[count++] = TRINE_KEY(strtoull(word, NULL, 10));
    if (trine_scatter(client, to, keys, count, NULL, 0, NULL, TRINE_FOREVER, &ticket) != TRINE_OK) exit(1);
    return ticket;
}

static void scatter_all(uint32_t most) {
    trine_route to;
    trine_ticket ticket;
    if (!route(client, "parts", "sum", &to)) return;
    if (trine_scatter_all(client, to, most, NULL, 0, NULL, TRINE_FOREVER, &ticket) != TRINE_OK) exit(1);
    scattered(ticket);
}

static void obey(char *line) {
    char *rest = strchr(line, ' ');
    if (rest) *rest++ = 0;
    else rest = line + strlen(line);
    const char *c = line;
    if (strcmp(c, "names") == 0) {
        for (int i = 0; strcmp(trine_status_name(i), "UNKNOWN") != 0; i++) printf("%s%s", i ? " " : "", trine_status_name(i));
    } else if (strcmp(c, "echo") == 0) {
        size_t len = strtoull(rest, NULL, 10);
        sized("echo", len, 0, len ? len : 1);
    } else if (strcmp(c, "mirror") == 0) {
        size_t len = strtoull(rest, NULL, 10);
        sized("mirror", len, 1, len ? len : 1);
    } else if (strcmp(c, "narrow") == 0) {
        sized("echo", strtoull(rest, NULL, 10), 0, 0);
    } else if (strcmp(c, "huge") == 0) {
        sized("echo", (size_t)65 << 20, 0, 0);
    } else if (strcmp(c, "text") == 0) {
        char *data = strchr(rest, ' ');
        if (data) *data++ = 0;
        text(rest, data ? data : "", NULL);
    } else if (strcmp(c, "route") == 0) {
        trine_route to;
        char *operation = strchr(rest, ' ');
        *operation++ = 0;
        if (route(client, rest, operation, &to)) printf("OK");
    } else if (strcmp(c, "deadline") == 0) {
        trine_call_args args = TRINE_INIT(trine_call_args);
        args.deadline_ns = 20 * 1000 * 1000;
        text("hold", "", &args);
        ask("release");
    } else if (strcmp(c, "poll") == 0) looked_at();
    else if (strcmp(c, "cancel") == 0) cancelled();
    else if (strcmp(c, "full") == 0) full();
    else if (strcmp(c, "post") == 0) posted(rest);
    else if (strcmp(c, "interrupt") == 0) interrupted();
    else if (strcmp(c, "fork") == 0) forked();
    else if (strcmp(c, "key") == 0) {
        char *word = strchr(rest, ' ');
        if (word) *word++ = 0;
        keyed(rest, word);
    } else if (strcmp(c, "unheld") == 0) unheld();
    else if (strcmp(c, "scatter") == 0) scattered(scatter(rest));
    else if (strcmp(c, "crowd") == 0) crowd();
    else if (strcmp(c, "connect") == 0) connected(rest);
    else if (strcmp(c, "begin") == 0) {
        char *operation = strchr(rest, ' ');
        *operation++ = 0;
        begin(rest, operation);
    } else if (strcmp(c, "end") == 0) end();
    else if (strcmp(c, "begin_scatter") == 0) {
        scattering = scatter(rest);
        printf("OK");
    } else if (strcmp(c, "end_scatter") == 0) scattered(scattering);
    else if (strcmp(c, "scatter_all") == 0) scatter_all((uint32_t)strtoul(rest, NULL, 10));
    else exit(2);
    puts("");
    fflush(stdout);
}

int main(int argc, char **argv) {
    static char line[4096];
    trine_options options = TRINE_INIT(trine_options);
    options.slots = 8;
    options.director_gone_ns = 500 * 1000 * 1000;
    if (argc < 2 || trine_connect(argv[1], &options, &client) != TRINE_OK
        || trine_connect(argv[1], NULL, &helper) != TRINE_OK) return 1;
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        obey(line);
    }
    trine_close(client);
    trine_close(helper);
    return 0;
}
