/* What a program compiled with this header relies on: no release may change it. */
#include <stdio.h>
#include <string.h>
#include <trine.h>

#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)

_Static_assert(sizeof(trine_status) == 4 && sizeof(trine_route) == 4, "numbers");
_Static_assert(sizeof(trine_ticket) == 8 && sizeof(trine_request) == 8, "names");

_Static_assert(sizeof(trine_options) == 64, "trine_options");
AT(trine_options, size, 0);
AT(trine_options, flags, 4);
AT(trine_options, waiting, 8);
AT(trine_options, slots, 12);
AT(trine_options, reply_capacity, 16);
AT(trine_options, request_arena, 24);
AT(trine_options, reply_arena, 32);
AT(trine_options, director_gone_ns, 40);
AT(trine_options, reserved, 48);

_Static_assert(sizeof(trine_call_args) == 40, "trine_call_args");
AT(trine_call_args, size, 0);
AT(trine_call_args, flags, 4);
AT(trine_call_args, deadline_ns, 8);
AT(trine_call_args, reply_capacity, 16);
AT(trine_call_args, key, 24);

_Static_assert(sizeof(trine_reply) == 120, "trine_reply");
AT(trine_reply, size, 0);
AT(trine_reply, status, 4);
AT(trine_reply, flags, 8);
AT(trine_reply, code, 12);
AT(trine_reply, ticket, 16);
AT(trine_reply, data, 24);
AT(trine_reply, len, 32);
AT(trine_reply, held, 40);
AT(trine_reply, needed, 48);
AT(trine_reply, worker, 56);
AT(trine_reply, key_mask, 64);
AT(trine_reply, parts, 72);
AT(trine_reply, taken_ns, 80);
AT(trine_reply, pushed_ns, 88);
AT(trine_reply, began_ns, 96);
AT(trine_reply, replied_ns, 104);
AT(trine_reply, received_ns, 112);

_Static_assert(sizeof(trine_incoming) == 96, "trine_incoming");
AT(trine_incoming, size, 0);
AT(trine_incoming, operation, 4);
AT(trine_incoming, request, 8);
AT(trine_incoming, data, 16);
AT(trine_incoming, len, 24);
AT(trine_incoming, out, 32);
AT(trine_incoming, out_capacity, 40);
AT(trine_incoming, deadline_ns, 48);
AT(trine_incoming, uid, 56);
AT(trine_incoming, gid, 60);
AT(trine_incoming, pid, 64);
AT(trine_incoming, flags, 68);
AT(trine_incoming, key, 72);
AT(trine_incoming, key_mask, 88);

_Static_assert(sizeof(trine_key) == 16, "trine_key");
AT(trine_key, word, 0);
AT(trine_key, kind, 8);

_Static_assert(sizeof(trine_resource) == 24, "trine_resource");
AT(trine_resource, kind, 0);
AT(trine_resource, first, 8);
AT(trine_resource, last, 16);

_Static_assert(sizeof(trine_step) == 32, "trine_step");
AT(trine_step, action, 0);
AT(trine_step, resource, 8);

_Static_assert(sizeof(trine_service_options) == 48, "trine_service_options");
AT(trine_service_options, size, 0);
AT(trine_service_options, policy, 8);
AT(trine_service_options, unheld, 12);
AT(trine_service_options, resources, 16);
AT(trine_service_options, resource_count, 24);
AT(trine_service_options, idempotent, 32);
AT(trine_service_options, stall_ns, 40);

_Static_assert(sizeof(trine_event) == 56, "trine_event");
AT(trine_event, size, 0);
AT(trine_event, kind, 4);
AT(trine_event, service, 8);
AT(trine_event, resource, 16);
AT(trine_event, reserved, 40);

_Static_assert(TRINE_NUMBER == 1 && TRINE_NAME == 2 && TRINE_RANGE == 3, "kinds");
_Static_assert(TRINE_SHARE == 4 && TRINE_ALL == 5, "kinds");
_Static_assert(TRINE_DECLARE == 1 && TRINE_WITHDRAW == 2 && TRINE_ACQUIRE == 3 && TRINE_RELEASE == 4, "actions");
_Static_assert(TRINE_GAINED == 1 && TRINE_LOST == 2 && TRINE_DRAINING == 3, "events");

_Static_assert(TRINE_OK == 0 && TRINE_WORKER_ERROR == 12 && TRINE_FAULT == 19, "the library's");
_Static_assert(TRINE_NOT_HELD == 20 && TRINE_NO_PART == 23 && TRINE_DRAINED == -6, "the library's");
_Static_assert(TRINE_EINVAL == -1 && TRINE_EBUSY == -2 && TRINE_ESYSTEM == -3, "the interface's own");
_Static_assert(TRINE_EPANIC == -4 && TRINE_READY == -5, "the interface's own");

int main(void) {
    trine_reply reply = TRINE_INIT(trine_reply);
    if (trine_version() != TRINE_VERSION || trine_protocol() == 0) return 1;
    if (reply.size != sizeof reply || reply.held != 0) return 2;
    if (strcmp(trine_status_name(TRINE_WORKER_DIED), "WORKER_DIED") != 0) return 3;
    if (strcmp(trine_status_name(TRINE_EINVAL), "EINVAL") != 0) return 4;
    if (strcmp(trine_status_name(4711), "UNKNOWN") != 0) return 5;
    puts("as it should be");
    return 0;
}
