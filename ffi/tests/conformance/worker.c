/* The conformance worker: worker BUS FIRST LAST [parts | rules] */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trine.h>
#include <unistd.h>

enum { ECHO, MIRROR, FAIL, HOLD, HELD, RELEASE, NOTE, NOTED, DIE, KEY, REFUSALS };
static const char *const operations[] = {"echo", "mirror", "fail", "hold", "held", "release",
                                         "note", "noted", "die", "key", "refusals"};
static const char *const sum[] = {"sum"}, *const only_echo[] = {"echo"}, *const block[] = {"block"};
static const char *const what_rules[] = {"stall", "retry"};

static trine_worker *worker;
static trine_request kept[64];
static size_t kept_count, noted_len;
static char noted[4096];
static uint32_t first_sum = 1000, first_exclusive = 1000, first_slow = 1000, first_rule = 1000;

static void check(trine_status status, const char *what) {
    if (status == TRINE_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, trine_status_name(status), trine_error(worker));
    exit(1);
}

static void say(trine_request request, const char *text) {
    check(trine_answer(worker, request, text, strlen(text)), "answer");
}

static void refusals(trine_request request) {
    char text[200];
    const trine_resource one = {TRINE_NUMBER, 0, 77, 77}, backwards = {TRINE_RANGE, 0, 2, 1};
    const trine_step withdraw = {TRINE_WITHDRAW, 0, {TRINE_NUMBER, 0, 77, 77}};
    snprintf(text, sizeof text, "%s %s %s %s", trine_status_name(trine_change(worker, "parts", &withdraw, 1)),
             trine_status_name(trine_acquire(worker, "exclusive", &backwards)),
             trine_status_name(trine_release(worker, "exclusive", &one)),
             trine_status_name(trine_acquire(worker, "nothing", &one)));
    say(request, text);
}

static void parts(trine_request request) {
    trine_key keys[64];
    size_t count = 0;
    uint64_t total = 0;
    char text[32];
    check(trine_request_keys(worker, request, keys, 64, &count), "keys");
    for (size_t i = 0; i < count; i++) total += keys[i].word;
    snprintf(text, sizeof text, "%" PRIu64, total);
    say(request, text);
}

static void stand_still(void) {
    for (;;) pause();
}

/* Whoever comes first dies. */
static void retry(const trine_incoming *request) {
    char name[4096];
    snprintf(name, sizeof name, "%.*s", (int)request->len, (const char *)request->data);
    if (open(name, O_CREAT | O_EXCL | O_WRONLY, 0600) >= 0) _exit(9);
    say(request->request, "again");
}

static void serve(const trine_incoming *request) {
    char text[64];
    size_t cancelled = 0;
    if (request->operation == first_sum) {
        parts(request->request);
        return;
    }
    if (request->operation == first_exclusive) {
        check(trine_answer(worker, request->request, request->data, request->len), "answer");
        return;
    }
    if (request->operation == first_slow) {
        puts("blocked");
        fflush(stdout);
        stand_still();
    }
    if (request->operation == first_rule) stand_still();
    if (request->operation == first_rule + 1) {
        retry(request);
        return;
    }
    switch (request->operation) {
    case ECHO: check(trine_answer(worker, request->request, request->data, request->len), "answer"); break;
    case MIRROR:
        if (request->out && request->len <= request->out_capacity) memcpy(request->out, request->data, request->len);
        check(trine_answer(worker, request->request, request->out, request->len), "answer");
        break;
    case FAIL: {
        char *message = calloc(1, request->len + 1);
        if (!message) exit(1);
        memcpy(message, request->data, request->len);
        check(trine_fail(worker, request->request, 7, message), "fail");
        free(message);
        break;
    }
    case HOLD: kept[kept_count++ % 64] = request->request; break;
    case HELD:
        for (size_t i = 0; i < kept_count; i++) cancelled += trine_is_cancelled(worker, kept[i]) == 1;
        snprintf(text, sizeof text, "%zu %zu", kept_count, cancelled);
        say(request->request, text);
        break;
    case RELEASE:
        while (kept_count > 0) say(kept[--kept_count], "released");
        say(request->request, "");
        break;
    case NOTE:
        noted_len = request->len < sizeof noted ? request->len : sizeof noted;
        memcpy(noted, request->data, noted_len);
        say(request->request, "");
        break;
    case NOTED: check(trine_answer(worker, request->request, noted, noted_len), "answer"); break;
    case DIE: _exit(9);
    case KEY:
        if (request->key.kind == TRINE_NUMBER) snprintf(text, sizeof text, "number %" PRIu64, request->key.word);
        else snprintf(text, sizeof text, "%s", request->key.kind == TRINE_NAME ? "name" : "none");
        say(request->request, text);
        break;
    case REFUSALS: refusals(request->request); break;
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    const trine_resource mine = {TRINE_RANGE, 0, strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10)};
    trine_service_options some = TRINE_INIT(trine_service_options), exclusive = TRINE_INIT(trine_service_options);
    trine_service_options patient = TRINE_INIT(trine_service_options), rules = TRINE_INIT(trine_service_options);
    some.resources = &mine;
    some.resource_count = 1;
    exclusive.unheld = TRINE_UNHELD_ERROR;
    patient.unheld = TRINE_UNHELD_WAIT;
    check(trine_worker_open(argv[1], NULL, &worker), "open");
    rules.idempotent = 1 << 1;
    rules.stall_ns = 1000 * 1000 * 1000;
    const int has_rules = argc > 4 && strcmp(argv[4], "rules") == 0;
    if (has_rules) { /* alone, since the most patient service decides */
        check(trine_provide_with(worker, "rules", what_rules, 2, &rules, &first_rule), "provide");
    } else if (argc < 5) {
        check(trine_provide(worker, "conformance", operations, 11, NULL), "provide");
        check(trine_provide_with(worker, "exclusive", only_echo, 1, &exclusive, &first_exclusive), "provide");
        check(trine_provide_with(worker, "patient", only_echo, 1, &patient, NULL), "provide");
    } else {
        check(trine_provide(worker, "slow", block, 1, &first_slow), "provide");
    }
    if (!has_rules) check(trine_provide_with(worker, "parts", sum, 1, &some, &first_sum), "provide");
    puts("serving");
    fflush(stdout);
    for (;;) {
        trine_incoming request = TRINE_INIT(trine_incoming);
        check(trine_next(worker, TRINE_FOREVER, &request), "next");
        serve(&request);
    }
}
