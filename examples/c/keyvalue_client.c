/* Fills a key-value service and asks it: keyvalue_client [BUS]
 *
 * Shows calls that nobody waits for, many calls in flight, a request built in place, and an answer that is an error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trine.h>

#define IN_FLIGHT 10

static trine_client *client;

static void check(trine_status status, const char *what) {
    if (status == TRINE_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, trine_status_name(status), trine_error(client));
    trine_close(client);
    exit(1);
}

/* Ten gets at a time; their ends come in any order. */
static int get_ten(trine_route get, int first) {
    trine_ticket tickets[IN_FLIGHT];
    int found = 0;
    for (int i = 0; i < IN_FLIGHT; i++) {
        char key[32];
        int len = snprintf(key, sizeof key, "key %d", first + i);
        check(trine_submit(client, get, key, (size_t)len + 1, NULL, TRINE_FOREVER, &tickets[i]), "submit");
    }
    for (int ended = 0; ended < IN_FLIGHT; ended++) {
        trine_reply reply = TRINE_INIT(trine_reply);
        check(trine_wait(client, TRINE_ANY, TRINE_FOREVER, &reply), "wait");
        for (int i = 0; i < IN_FLIGHT; i++) {
            char value[32];
            int len = snprintf(value, sizeof value, "value %d", first + i);
            if (reply.ticket == tickets[i])
                found += reply.len == (uint64_t)len && memcmp(reply.data, value, (size_t)len) == 0;
        }
        check(trine_reply_free(client, &reply), "free");
    }
    return found;
}

int main(int argc, char **argv) {
    trine_route get, put;
    trine_reply reply = TRINE_INIT(trine_reply);
    trine_status status;
    const size_t large = 3000;
    int found = 0;

    check(trine_connect(argc > 1 ? argv[1] : NULL, NULL, &client), "connect");
    check(trine_route_of(client, "store", "get", &get), "route");
    check(trine_route_of(client, "store", "put", &put), "route");

    for (int i = 0; i < 1000; i++) {
        char pair[64];
        int key = snprintf(pair, sizeof pair, "key %d", i) + 1; /* and the zero byte */
        int value = snprintf(pair + key, sizeof pair - (size_t)key, "value %d", i);
        check(trine_post(client, put, pair, (size_t)(key + value), NULL, TRINE_FOREVER), "post");
    }
    /* A worker takes what it is given in order, so the gets come after the puts. */
    for (int tens = 0; tens < 100; tens++) found += get_ten(get, tens * 10);
    printf("%d values found\n", found);

    /* A large value, built where the worker reads it. */
    void *loan;
    trine_ticket ticket;
    check(trine_loan(client, put, large, TRINE_FOREVER, &loan), "loan");
    memset(loan, 'x', large);
    memcpy(loan, "large", 6);
    check(trine_send_loan(client, loan, large, NULL, TRINE_FOREVER, &ticket), "send");
    check(trine_wait(client, ticket, TRINE_FOREVER, &reply), "wait");
    check(trine_reply_free(client, &reply), "free");
    check(trine_call(client, get, "large", 6, NULL, &reply), "get");
    printf("a value of %llu bytes\n", (unsigned long long)reply.len);
    check(trine_reply_free(client, &reply), "free");

    status = trine_call(client, get, "no such", 8, NULL, &reply);
    printf("%s %u: %s\n", trine_status_name(status), reply.code, trine_error(client));
    trine_close(client);
    return found == 1000 && status == TRINE_WORKER_ERROR ? 0 : 1;
}
