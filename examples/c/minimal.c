#include <stdio.h>
#include <trine.h>

int main(int argc, char **argv) {
    trine_client *client;
    trine_route route;
    trine_reply reply = TRINE_INIT(trine_reply);
    if (trine_connect(argc > 1 ? argv[1] : NULL, NULL, &client) != TRINE_OK
        || trine_route_of(client, "text", "upper", &route) != TRINE_OK
        || trine_call(client, route, "hello", 5, NULL, &reply) != TRINE_OK) {
        fprintf(stderr, "%s\n", trine_error(client));
        return 1;
    }
    printf("%.*s\n", (int)reply.len, (const char *)reply.data);
    trine_reply_free(client, &reply);
    trine_close(client);
}
