/* Has an image's edges found: inference_client [BUS]
 *
 * The image is rendered where the worker reads it, and the edges are read where the worker wrote them. The worker may be
 * examples/python/inference_service.py. */
#include <stdio.h>
#include <stdlib.h>
#include <trine.h>

enum { ROWS = 1080, COLUMNS = 1920, BYTES = ROWS * COLUMNS * 3 };

static trine_client *client;

static void check(trine_status status, const char *what) {
    if (status == TRINE_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, trine_status_name(status), trine_error(client));
    exit(1);
}

/* A square of white on black, and a grey one beside it. */
static unsigned char pixel(int row, int column) {
    if (row < 100 || row >= 500) return 0;
    if (column >= 200 && column < 600) return 255;
    return column >= 900 && column < 1300 ? 100 : 0;
}

int main(int argc, char **argv) {
    trine_route edges;
    trine_ticket ticket;
    trine_reply reply = TRINE_INIT(trine_reply);
    trine_call_args args = TRINE_INIT(trine_call_args);
    void *loan;
    int brightest = 0;
    check(trine_connect(argc > 1 ? argv[1] : NULL, NULL, &client), "connect");
    check(trine_route_of(client, "vision", "edges", &edges), "route");

    check(trine_loan(client, edges, 8 + BYTES, TRINE_FOREVER, &loan), "loan");
    ((uint32_t *)loan)[0] = ROWS;
    ((uint32_t *)loan)[1] = COLUMNS;
    unsigned char *image = (unsigned char *)loan + 8;
    for (int i = 0; i < BYTES; i++) image[i] = pixel(i / 3 / COLUMNS, i / 3 % COLUMNS);
    args.reply_capacity = BYTES;
    check(trine_send_loan(client, loan, 8 + BYTES, &args, TRINE_FOREVER, &ticket), "send");
    check(trine_wait(client, ticket, TRINE_FOREVER, &reply), "wait");

    const unsigned char *found = reply.data;
    for (int i = 0; i < BYTES; i++) {
        int row = i / 3 / COLUMNS, column = i / 3 % COLUMNS;
        int expected = column == 0 ? 0 : abs(pixel(row, column) - pixel(row, column - 1));
        if (reply.len != BYTES || found[i] != expected) {
            fprintf(stderr, "row %d, column %d: %d, not %d\n", row, column, found[i], expected);
            return 1;
        }
        if (found[i] > brightest) brightest = found[i];
    }
    printf("%d bytes of edges, brightest %d\n", BYTES, brightest);
    trine_reply_free(client, &reply);
    trine_close(client);
    return 0;
}
