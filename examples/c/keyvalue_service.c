/* A key-value service: keyvalue_service [BUS]
 *
 * A request is a key, a zero byte, and for `put` a value: any of the clients in these examples can ask it, in whichever
 * language. It serves until SIGINT or SIGTERM. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trine.h>

enum { GET, PUT }; /* in the order in which they are provided */
static const char *const operations[] = {"get", "put"};

struct entry {
    struct entry *next;
    size_t key_len, value_len;
    char bytes[]; /* the key, then the value */
};

static struct entry *store;
static volatile sig_atomic_t stop;
static trine_worker *worker;

static void on_signal(int signal) {
    (void)signal;
    stop = 1;
    trine_wake(worker); /* the signal may come just before the wait */
}

static struct entry **find(const char *key, size_t len) {
    struct entry **at = &store;
    while (*at && ((*at)->key_len != len || memcmp((*at)->bytes, key, len) != 0)) at = &(*at)->next;
    return at;
}

static int put(const char *key, size_t key_len, const char *value, size_t value_len) {
    struct entry **at = find(key, key_len), *old = *at;
    struct entry *entry = malloc(sizeof *entry + key_len + value_len);
    if (!entry) return 0;
    entry->next = old ? old->next : NULL;
    entry->key_len = key_len;
    entry->value_len = value_len;
    memcpy(entry->bytes, key, key_len);
    if (value_len) memcpy(entry->bytes + key_len, value, value_len);
    *at = entry;
    free(old);
    return 1;
}

static void answer(const trine_incoming *request) {
    /* Copy, then check: a hostile client could change it in between. */
    char *bytes = malloc(request->len + 1);
    const char *end;
    if (!bytes) {
        trine_fail(worker, request->request, 500, "out of memory");
        return;
    }
    memcpy(bytes, request->data, request->len);
    end = memchr(bytes, 0, request->len);
    if (!end) {
        trine_fail(worker, request->request, 400, "a request is a key, a zero byte, and a value");
    } else if (request->operation == PUT) {
        size_t key_len = (size_t)(end - bytes);
        if (put(bytes, key_len, end + 1, request->len - key_len - 1)) trine_answer(worker, request->request, NULL, 0);
        else trine_fail(worker, request->request, 500, "out of memory");
    } else {
        const struct entry *entry = *find(bytes, (size_t)(end - bytes));
        if (entry) trine_answer(worker, request->request, entry->bytes + entry->key_len, entry->value_len);
        else trine_fail(worker, request->request, 404, "no such key");
    }
    free(bytes);
}

int main(int argc, char **argv) {
    trine_status status = trine_worker_open(argc > 1 ? argv[1] : NULL, NULL, &worker);
    if (status == TRINE_OK) status = trine_provide(worker, "store", operations, 2, NULL);
    if (status != TRINE_OK) {
        fprintf(stderr, "%s: %s\n", trine_status_name(status), trine_error(worker));
        return 1;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    puts("serving");
    fflush(stdout);
    while (!stop) {
        trine_incoming request = TRINE_INIT(trine_incoming);
        status = trine_next(worker, TRINE_FOREVER, &request);
        if (status == TRINE_OK) answer(&request);
        else if (status != TRINE_INTERRUPTED) break;
    }
    if (!stop) fprintf(stderr, "%s: %s\n", trine_status_name(status), trine_error(worker));
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    trine_worker_close(worker);
    while (store) {
        struct entry *next = store->next;
        free(store);
        store = next;
    }
    return stop ? 0 : 1;
}
