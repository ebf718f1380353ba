/* trine.h: brokered calls between processes of one Linux host, in three messages through shared memory.
 *
 * Generated from ffi/src: change it there. docs/c.md is the way in; trine.hpp is the same for C++.
 *
 * RESULTS. Functions return a trine_status: 0 is TRINE_OK, above 0 is how a call ended, below 0 is this interface's own.
 * trine_status_name() and trine_status_text() say it in words, trine_error() what was wrong in this case. Nothing of the
 * library unwinds into its caller, and it never ends the process, but for want of memory.
 *
 * POINTERS. What is passed in is copied before the function returns, and must not change meanwhile. What comes back
 * "in place" lies in memory that is the library's: it says how long. A handle is freed by its own close or stop only,
 * which takes NULL. NULL elsewhere gives TRINE_EINVAL, unless a function says what it means. So does a handle of another
 * kind, and one that was closed, until the library uses its memory again, which it puts off as long as it can: find
 * such mistakes with it, don't rely on it. A pointer that never was a handle can't be told from one.
 *
 * STRUCTS begin with their size: zero them and set it, as TRINE_INIT does. They grow at the end; a library takes older,
 * smaller ones, and newer, larger ones whose additions are 0. What is reserved is 0.
 *
 * THREADS. A handle is used by one thread at a time, by any: where two meet, the second gets TRINE_EBUSY and has done
 * nothing. Different handles have nothing to do with each other. trine_wake() alone may be called at any time, from any
 * thread, and from a signal handler. trine_status_…, trine_version() and trine_protocol() may be called by anyone.
 *
 * BLOCKING. A function marked [B] may block; all others never do. [S] makes a system call even where nothing blocks, as
 * [B] may; the others make at most the one that rings a sleeping peer and, a millisecond after the last time or later,
 * the one that looks what the director has to say. Timeouts are in nanoseconds from now, 0 is not at all, TRINE_FOREVER
 * has no end. A signal that this thread handles ends a wait with TRINE_INTERRUPTED, unless trine_options.flags has
 * TRINE_RESTART: also with SA_RESTART. What asks the director (connecting, routes, providing) goes on, and gives up
 * after 5 s.
 *
 * EVENT LOOPS. trine_client_fd() and trine_worker_fd() are descriptors for poll, epoll, libuv, GLib, asyncio: wait until
 * they are readable, and do nothing else with them. As often as the loop sleeps:
 *
 *     drain:   trine_poll(TRINE_ANY) or trine_next(0), until TRINE_WOULD_BLOCK
 *     arm:     TRINE_READY: drain again. TRINE_OK: now sleep
 *     disarm:  when the loop comes back, for whatever reason; then drain
 *
 * An armed handle also wakes the loop for the deadlines of its calls, so that the loop needs no timer for them, and now
 * and then for nothing.
 *
 * WITHOUT A DIRECTOR calls that are open go on, and handles look for the next one in whatever they do; armed ones wake
 * the loop for that, every few milliseconds. To come back to one takes some round trips on a socket, also in what else
 * does not block.
 *
 * FORK. A child has its parent's handles, and can only close them; everything else gives TRINE_FORKED. It may connect
 * anew. */


#ifndef TRINE_H
#define TRINE_H

#include <stddef.h>
#include <stdint.h>

/* An empty struct of this type, for functions to fill in: trine_reply reply = TRINE_INIT(trine_reply);
 * and the key with a number: args.key = TRINE_KEY(7); */
#ifdef __cplusplus
#define TRINE_INIT(type) trine_init<type>()
#define TRINE_KEY(number) (trine_key{(number), TRINE_NUMBER, 0})
template <typename T> inline T trine_init() { T value{}; value.size = sizeof(T); return value; }
#else
#define TRINE_INIT(type) { .size = sizeof(type) }
#define TRINE_KEY(number) ((trine_key){ (number), TRINE_NUMBER, 0 })
#endif


// The version of this interface that a program was compiled with: major << 16 | minor << 8 | patch.
#define TRINE_VERSION 256

// Log level: something went wrong.
#define TRINE_LOG_ERROR 1

// Log level: something is not as it should be.
#define TRINE_LOG_WARN 2

// Log level: something happened.
#define TRINE_LOG_INFO 3

// Log level: for who looks for a mistake.
#define TRINE_LOG_DEBUG 4

// trine_key.kind, trine_resource.kind: a number. A resource's is `first`.
#define TRINE_NUMBER 1

// trine_key.kind, trine_resource.kind: a name. A resource's is the key's word, as `first`.
#define TRINE_NAME 2

// trine_resource.kind: the numbers from `first` to `last`, both included.
#define TRINE_RANGE 3

// trine_resource.kind: share `first` of `last`, by a hash of the key.
#define TRINE_SHARE 4

// trine_resource.kind: all that there are.
#define TRINE_ALL 5

// trine_service_options.policy: join the shortest of bounded queues; the best tail where calls take unevenly long.
#define TRINE_JBSQ 1

// trine_service_options.policy: each worker in its turn.
#define TRINE_ROUND_ROBIN 2

// trine_service_options.policy: calls on the same key go to the same worker, unless it has far more to do.
#define TRINE_AFFINITY 3

// trine_service_options.policy: whoever has the fewest calls in its hands.
#define TRINE_LEAST_OUTSTANDING 4

// trine_service_options.unheld: a call on a resource that nobody holds waits for a holder.
#define TRINE_UNHELD_WAIT 1

// trine_service_options.unheld: it ends with TRINE_NOT_HELD, not run.
#define TRINE_UNHELD_ERROR 2

// trine_service_options.unheld: the worker with the fewest calls in its hands is made the holder.
#define TRINE_UNHELD_OFFER 3

// trine_step.action: the worker speaks for it from now on.
#define TRINE_DECLARE 1

// trine_step.action: no more; named exactly as it was declared.
#define TRINE_WITHDRAW 2

// trine_step.action: the worker asks for the exclusive right.
#define TRINE_ACQUIRE 3

// trine_step.action: it gives the right back.
#define TRINE_RELEASE 4

// trine_event.kind: the worker holds the exclusive right from now on.
#define TRINE_GAINED 1

// trine_event.kind: it holds it no more once the callback has returned. No more calls on it will come. Be ready for
// TRINE_ALL: who withdraws a service loses at once whatever it held of it, and is not told piece by piece.
#define TRINE_LOST 2

// trine_event.kind: it was asked to drain: what it was given it still serves, then trine_next() gives TRINE_DRAINED.
#define TRINE_DRAINING 3

// A wait without end.
#define TRINE_FOREVER INT64_MAX

// trine_options.waiting: yield the CPU for some microseconds, then sleep. Right for almost all.
#define TRINE_WAIT_ADAPTIVE 0

// trine_options.waiting: sleep at once.
#define TRINE_WAIT_PARK 1

// trine_options.waiting: never sleep, yield in between. No signal ends such a wait.
#define TRINE_WAIT_YIELD 2

// trine_options.waiting: never sleep, never yield: for who has a CPU of its own. No signal ends such a wait.
#define TRINE_WAIT_SPIN 3

// trine_options.flags: a wait goes on after a signal, instead of TRINE_INTERRUPTED.
#define TRINE_RESTART 1

// trine_call_args.flags: before the others of those that wait for a worker. None starves: see the manual.
#define TRINE_HIGH 1

// trine_call_args.flags: when nothing else waits.
#define TRINE_LOW 2

// trine_call_args.flags: director and worker note the time at each hop, for trine_reply. Costs four readings of the
// clock.
#define TRINE_TRACED 4

// trine_reply.flags: the operation may have run. Without it: it did not, and never will.
#define TRINE_RAN 1

// trine_reply.flags: the last part of a scatter.
#define TRINE_LAST 2

// trine_incoming.flags: a part of a scatter: others have theirs. See key_mask, and trine_request_keys().
#define TRINE_PART 1

// A client of a bus.
typedef struct trine_client trine_client;

// A director in a thread of this process.
typedef struct trine_director trine_director;

// A worker on a bus.
typedef struct trine_worker trine_worker;

// How something ended. Numbers are for ever; new ones are appended, so be ready for one that you don't know.
typedef int32_t trine_status;

// What can be chosen about a handle; 0 is the default of each. What a kind of handle has no use for is ignored.
typedef struct trine_options {
    // sizeof(trine_options).
    uint32_t size;
    // TRINE_RESTART.
    uint32_t flags;
    // TRINE_WAIT_…
    uint32_t waiting;
    // Client: calls that can be open at a time. Worker: requests that can wait at it. A power of two.
    uint32_t slots;
    // Client: bytes of reply that every call has room for without asking.
    uint32_t reply_capacity;
    // 0.
    uint32_t reserved_word;
    // Client: bytes for requests of more than 64 bytes. Memory that is never written costs nothing.
    uint64_t request_arena;
    // Client: bytes for replies that ask for more than reply_capacity.
    uint64_t reply_arena;
    // Client: how long calls look for a director before they end with TRINE_DIRECTOR_GONE.
    uint64_t director_gone_ns;
    // 0.
    uint64_t reserved[2];
} trine_options;

// An operation of a service, as trine_route_of() found it. Its client's; outlives any director.
typedef uint32_t trine_route;

// One resource of a service: a number, or a name. The two never meet.
typedef struct trine_key {
    // The number, or what stands for the name.
    uint64_t word;
    // TRINE_NUMBER or TRINE_NAME; 0 is no key.
    uint32_t kind;
    // 0.
    uint32_t reserved;
} trine_key;

// What more is to be said of a call.
typedef struct trine_call_args {
    // sizeof(trine_call_args).
    uint32_t size;
    // TRINE_HIGH or TRINE_LOW, TRINE_TRACED.
    uint32_t flags;
    // When the call ends, answered or not, in nanoseconds from now. 0: 30 s.
    int64_t deadline_ns;
    // Room for a reply of so many bytes. 0: what trine_options.reply_capacity says.
    uint64_t reply_capacity;
    // The resource that the call is about: TRINE_KEY(7), or what trine_key_of() gave. All zeros: none.
    struct trine_key key;
} trine_call_args;

// A call. 0 is none; never another call's.
typedef uint64_t trine_ticket;

// How a call ended. Set `size`; the library fills in the rest.
typedef struct trine_reply {
    // sizeof(trine_reply).
    uint32_t size;
    // As returned.
    trine_status status;
    // TRINE_RAN, TRINE_LAST.
    uint32_t flags;
    // With TRINE_WORKER_ERROR: the worker's own number.
    uint32_t code;
    // The call.
    trine_ticket ticket;
    // With TRINE_OK: the result, in place, until trine_reply_free() or trine_close(). What lies in shared memory a
    // hostile worker could still change: copy, then check. Never NULL then; aligned for 8 bytes.
    const void *data;
    // Its bytes.
    uint64_t len;
    // The library's own note of what is held.
    uint64_t held;
    // With TRINE_REPLY_TOO_LARGE: the room that the result needs. With TRINE_TOO_MANY_PARTS: how many there would be.
    uint64_t needed;
    // The worker that answered.
    uint64_t worker;
    // Of a part of a scatter over keys: which of them it is about, a bit for each place in the list.
    uint64_t key_mask;
    // Of a part: how many there are in all. 0: it is no part.
    uint32_t parts;
    // 0.
    uint32_t reserved;
    // With TRINE_OK, of a call with TRINE_TRACED, on CLOCK_MONOTONIC: when the director took it. Else all are 0.
    uint64_t taken_ns;
    // When the director pushed it to the worker.
    uint64_t pushed_ns;
    // When the worker began it.
    uint64_t began_ns;
    // When the worker answered.
    uint64_t replied_ns;
    // When this client saw the answer.
    uint64_t received_ns;
} trine_reply;

// Is given each message, in whichever thread it arises: with the `user` of trine_log(), the level, the place in the
// library, and the text, which is valid until it returns. It may call trine_wake(), and no other function on a handle.
typedef void (*trine_log_callback)(void *user, int32_t level, const char *target, const char *message);

// Resources of a service.
typedef struct trine_resource {
    // TRINE_NUMBER, TRINE_NAME, TRINE_RANGE, TRINE_SHARE or TRINE_ALL.
    uint32_t kind;
    // 0.
    uint32_t reserved;
    // As the kind says.
    uint64_t first;
    // As the kind says; of a kind that has no use for it, ignored.
    uint64_t last;
} trine_resource;

// What can be chosen when a worker provides a service; 0 is the default of each. The policy, and what an unheld
// resource means, hold for all workers of the service: the one who says so last decides.
typedef struct trine_service_options {
    // sizeof(trine_service_options).
    uint32_t size;
    // 0.
    uint32_t flags;
    // TRINE_JBSQ, and so on.
    uint32_t policy;
    // TRINE_UNHELD_…: makes the resources exclusive. A call with a key goes to the key's holder alone.
    uint32_t unheld;
    // What this worker speaks for; NULL is all of it.
    const struct trine_resource *resources;
    // How many, up to 128: trine_change() adds more.
    uint64_t resource_count;
    // Operations that may run more than once, a bit for each place in the list of operations (1 is the first): a call
    // of one whose worker died after it had begun runs again at another one, three times in all at most.
    uint64_t idempotent;
    // How long a worker that has one of its calls in its hands may show no sign of life before they end with
    // TRINE_MAY_HAVE_RUN, in whole milliseconds, rounded down, at least one. 0: what the director says, 30 s.
    // TRINE_FOREVER: for ever. Of all services of a worker the most patient one decides.
    int64_t stall_ns;
} trine_service_options;

// One step of a trine_change().
typedef struct trine_step {
    // TRINE_DECLARE, TRINE_WITHDRAW, TRINE_ACQUIRE or TRINE_RELEASE.
    uint32_t action;
    // 0.
    uint32_t reserved;
    // Of what.
    struct trine_resource resource;
} trine_step;

// What a worker is told, between its requests. Kinds are appended, so be ready for one that you don't know.
typedef struct trine_event {
    // sizeof(trine_event), as the library has it.
    uint32_t size;
    // TRINE_GAINED, TRINE_LOST, TRINE_DRAINING.
    uint32_t kind;
    // Of which service; NULL where it is about none. Valid until the callback returns.
    const char *service;
    // Of what; of a TRINE_LOST also TRINE_ALL.
    struct trine_resource resource;
    // 0.
    uint64_t reserved[2];
} trine_event;

// Is told each event of a worker, with the `user` of trine_on_event(), in the thread that is in trine_next(). It must
// not throw. It may call trine_wake(); the others give TRINE_EBUSY on this worker.
typedef void (*trine_event_callback)(void *user, const struct trine_event *event);

// A request in a worker's hands: the right, and the duty, to answer it once. 0 is none; never another request's.
typedef uint64_t trine_request;

// A request. Set `size`; the library fills in the rest. All pointers are valid until it is answered.
typedef struct trine_incoming {
    // sizeof(trine_incoming).
    uint32_t size;
    // Which operation: trine_provide() numbers them from 0 on.
    uint32_t operation;
    // What trine_answer() and trine_fail() are given.
    trine_request request;
    // The payload, in place: a hostile client could still change it, so copy, then check. Never NULL; aligned for 8
    // bytes.
    const void *data;
    // Its bytes.
    uint64_t len;
    // Where the reply may be built in place. NULL if the client has given no room that can be.
    void *out;
    // How many bytes a reply may have.
    uint64_t out_capacity;
    // When the caller stops waiting, on CLOCK_MONOTONIC. 0: never.
    uint64_t deadline_ns;
    // Who asks, as the kernel said when it connected.
    uint32_t uid;
    // The same.
    uint32_t gid;
    // The same.
    int32_t pid;
    // TRINE_PART.
    uint32_t flags;
    // The resource that it is about. Kind 0: none, or it is a part.
    struct trine_key key;
    // Of a part of a scatter over keys: which of the caller's keys this worker is asked about, a bit for each place in
    // the list.
    uint64_t key_mask;
} trine_incoming;

// It is done; a result is there.
#define TRINE_OK 0

// No worker was ever known that provides such a service.
#define TRINE_NO_SUCH_SERVICE 1

// The service is there; it has no such operation.
#define TRINE_NO_SUCH_OPERATION 2

// The service is known, but no worker provides it now.
#define TRINE_NO_WORKER 3

// The caller may not do this.
#define TRINE_PERMISSION_DENIED 4

// The call's deadline passed.
#define TRINE_DEADLINE_EXCEEDED 5

// The caller gave the call up.
#define TRINE_CANCELLED 6

// The result does not fit the reply's room: see trine_reply.needed.
#define TRINE_REPLY_TOO_LARGE 7

// The request does not fit the arena.
#define TRINE_REQUEST_TOO_LARGE 8

// Not now, or not in the time that was given.
#define TRINE_WOULD_BLOCK 9

// Too many calls wait on this route already.
#define TRINE_BUSY 10

// The worker died after it had begun.
#define TRINE_WORKER_DIED 11

// The worker answered with an error: trine_reply.code is its number, trine_error() its message.
#define TRINE_WORKER_ERROR 12

// Whether it ran can't be known.
#define TRINE_MAY_HAVE_RUN 13

// There is no director.
#define TRINE_DIRECTOR_GONE 14

// A signal, or trine_wake(), ended the wait.
#define TRINE_INTERRUPTED 15

// This library and the director speak different versions.
#define TRINE_PROTOCOL_MISMATCH 16

// The handle belongs to the process that this one was forked from.
#define TRINE_FORKED 17

// No worker began it, however often it was tried.
#define TRINE_NOT_BEGUN 18

// A peer broke the protocol.
#define TRINE_FAULT 19

// The resource needs a holder, and has none.
#define TRINE_NOT_HELD 20

// The resource was not declared, or not so.
#define TRINE_NO_SUCH_RESOURCE 21

// A range upside down, a share that there is none of, two ranges that overlap, two names with one hash.
#define TRINE_BAD_RESOURCE 22

// There is no such part: a call to several workers had more tickets than it needed.
#define TRINE_NO_PART 23

// A call to several workers would have had more parts than there was room for: see trine_reply.needed.
#define TRINE_TOO_MANY_PARTS 24

// An argument can't be: NULL, not such a handle, a bad length, name or option. Nothing was done.
#define TRINE_EINVAL -1

// Another thread uses this handle now. Nothing was done.
#define TRINE_EBUSY -2

// The operating system refused: trine_error() says what.
#define TRINE_ESYSTEM -3

// A mistake of this library's own. The handle can only be closed.
#define TRINE_EPANIC -4

// From arming a handle: there is something to do, so don't sleep. The handle is not armed.
#define TRINE_READY -5

// From trine_next(): the worker was drained, and has served its last request.
#define TRINE_DRAINED -6

// For trine_wait(): whichever call ends first.
#define TRINE_ANY 0

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Connects a client. [B] `bus` is a bus's name, or a path with a slash in it, or NULL for the default bus; `options` may
// be NULL. Where it fails, *out is NULL and trine_error(NULL) says why.
trine_status trine_connect(const char *bus,
                           const struct trine_options *options,
                           struct trine_client **out);

// Ends a client: gives up its open calls, after waiting for one-way calls to be taken over, a second at most. [B] The
// data of its replies and its loans are gone then. NULL is fine.
trine_status trine_close(struct trine_client *client);

// Finds an operation. Once for each; a call needs only the result. [B]
trine_status trine_route_of(struct trine_client *client,
                            const char *service,
                            const char *operation,
                            trine_route *out);

// The key of a resource's name, for trine_call_args.key: the same for every client and worker as long as the bus lives.
// [B], once for each name. TRINE_BAD_RESOURCE: another name has the same hash.
trine_status trine_key_of(struct trine_client *client,
                          const char *name,
                          struct trine_key *out);

// Calls, and waits for the result; the data is copied in. [B] `args` may be NULL. Returns how the call ended, as
// out->status says. After TRINE_INTERRUPTED with out->ticket not 0 the call is still open: trine_wait() for it, or
// trine_cancel() it.
trine_status trine_call(struct trine_client *client,
                        trine_route route,
                        const void *data,
                        size_t len,
                        const struct trine_call_args *args,
                        struct trine_reply *out);

// Sends a request; the data is copied in. [B], but with a timeout of 0, which is how long to wait for a free slot and
// for room. Its outcome is trine_wait()'s to fetch.
trine_status trine_submit(struct trine_client *client,
                          trine_route route,
                          const void *data,
                          size_t len,
                          const struct trine_call_args *args,
                          int64_t timeout_ns,
                          trine_ticket *out);

// Sends a request that has no reply. It runs once at most. [B] as trine_submit().
trine_status trine_post(struct trine_client *client,
                        trine_route route,
                        const void *data,
                        size_t len,
                        const struct trine_call_args *args,
                        int64_t timeout_ns);

// Waits for a call, or, with TRINE_ANY, for whichever ends first. [B] TRINE_WOULD_BLOCK: it did not end in time.
// TRINE_INTERRUPTED: a signal came. Both leave the call open. Any other status is how it ended, and is said once; a
// ticket whose end was said, or that was cancelled, gives TRINE_EINVAL. Of a scatter, each time, one part that has
// ended and was not said: out->parts says how many there are, TRINE_LAST that there are no more.
trine_status trine_wait(struct trine_client *client,
                        trine_ticket ticket,
                        int64_t timeout_ns,
                        struct trine_reply *out);

// Sends a request to the workers that have these keys, up to 64: a part for each worker, about those of the keys that it
// has. The data is copied in, but for a loan: that is sent as by trine_send_loan(). [B] as trine_submit(). Each part
// ends as a call does, with the deadline of `args` at the latest; trine_wait() gives them as they come, trine_cancel()
// gives up all that is open. No keys: nothing is sent, and *out is 0.
trine_status trine_scatter(struct trine_client *client,
                           trine_route route,
                           const struct trine_key *keys,
                           size_t count,
                           const void *data,
                           size_t len,
                           const struct trine_call_args *args,
                           int64_t timeout_ns,
                           trine_ticket *out);

// Sends a request to all workers that provide the operation: a part for each, `most` of them at most (0: as many as the
// client has free slots); where there would be more, nobody gets anything, and the only part ends with
// TRINE_TOO_MANY_PARTS. Else as trine_scatter().
trine_status trine_scatter_all(struct trine_client *client,
                               trine_route route,
                               uint32_t most,
                               const void *data,
                               size_t len,
                               const struct trine_call_args *args,
                               int64_t timeout_ns,
                               trine_ticket *out);

// trine_wait() with a timeout of 0: looks, and never blocks.
trine_status trine_poll(struct trine_client *client, trine_ticket ticket, struct trine_reply *out);

// Gives a call up. Never blocks. A worker may still run it, and can see that nobody waits.
trine_status trine_cancel(struct trine_client *client, trine_ticket ticket);

// Gives a reply's data back, and empties the struct. One that holds nothing is left as it is, and so is NULL.
trine_status trine_reply_free(struct trine_client *client, struct trine_reply *reply);

// Lends memory in which to build a request for `route`: the worker will read it there. [B] as trine_submit(). It holds
// what an earlier request left there. It is yours until trine_send_loan(), trine_loan_free() or trine_close().
trine_status trine_loan(struct trine_client *client,
                        trine_route route,
                        size_t len,
                        int64_t timeout_ns,
                        void **out);

// Sends the first `len` bytes of a loan. [B] as trine_submit(). The loan is gone then, sent or not, unless the status is
// TRINE_EINVAL.
trine_status trine_send_loan(struct trine_client *client,
                             void *loan,
                             size_t len,
                             const struct trine_call_args *args,
                             int64_t timeout_ns,
                             trine_ticket *out);

// Gives a loan back, unsent. NULL is fine.
trine_status trine_loan_free(struct trine_client *client, void *loan);

// The descriptor for an event loop: see the head of this file. A negative number is a status: TRINE_EINVAL also in a
// forked child.
int trine_client_fd(const struct trine_client *client);

// Before an event loop sleeps. TRINE_OK: poll the descriptor, then disarm. TRINE_READY: don't. [S] now and then.
trine_status trine_client_arm(struct trine_client *client);

// After an event loop has slept. [S]
trine_status trine_client_disarm(struct trine_client *client);

// Starts a director in two threads of its own. [B] Arguments and failures as trine_connect().
trine_status trine_director_start(const char *bus,
                                  const struct trine_options *options,
                                  struct trine_director **out);

// Stops it: what waits ends, workers finish what they have begun, 5 s at most. [B] NULL is fine.
trine_status trine_director_stop(struct trine_director *director);

// The version of this interface that is there: the same major number, and at least that of TRINE_VERSION.
uint32_t trine_version(void);

// The version of what the parties of a bus exchange: all have the same.
uint32_t trine_protocol(void);

// Why the last function that failed on this handle did: a sentence, without the status's name. Of a call that ended
// with TRINE_WORKER_ERROR it is the worker's message. With NULL, or a handle that is none: of the last function of
// this thread that failed without a handle, such as trine_connect(). Valid until the next function on that handle,
// or in this thread. Never NULL; "" if nothing failed yet.
const char *trine_error(const void *handle);

// Has everything up to this level (TRINE_LOG_…) said to the callback; NULL ends that, and when it returns the old
// callback runs no more. One for the whole process. TRINE_EBUSY: from within the callback; or the program has a Rust
// `tracing` subscriber of its own.
trine_status trine_log(int32_t level,
                       trine_log_callback callback,
                       void *user);

// trine_provide(), on some resources only, or with a policy for the service. [B] `options` may be NULL.
trine_status trine_provide_with(struct trine_worker *worker,
                                const char *service,
                                const char *const *operations,
                                size_t count,
                                const struct trine_service_options *options,
                                uint32_t *first);

// Changes what this worker declares and holds in a service that it provides: all `count` steps (up to 128) or none,
// at once, while calls go on. [B] A right that another worker holds is handed over when that one has finished what it
// was given: TRINE_GAINED says when. TRINE_NO_SUCH_SERVICE: not provided. TRINE_NO_SUCH_RESOURCE: withdrawn, but not
// declared so. TRINE_NOT_HELD: released, but not held. TRINE_BAD_RESOURCE: it can't be. TRINE_BUSY: too many.
trine_status trine_change(struct trine_worker *worker,
                          const char *service,
                          const struct trine_step *steps,
                          size_t count);

// Asks for the exclusive right to a number, a name or a range. [B] TRINE_OK: it is held. TRINE_WOULD_BLOCK: another
// worker holds it, and was asked to hand it over; TRINE_GAINED will tell. Else as trine_change().
trine_status trine_acquire(struct trine_worker *worker,
                           const char *service,
                           const struct trine_resource *resource);

// Gives a right back. [B] What this worker was given on it, it still serves; then it is lost: TRINE_LOST.
trine_status trine_release(struct trine_worker *worker,
                           const char *service,
                           const struct trine_resource *resource);

// What this worker holds exclusively of a service, as far as it has heard: the first `room` of it are written to
// `out`, which may be NULL if there is none; *count says how much there is.
trine_status trine_holds(struct trine_worker *worker,
                         const char *service,
                         struct trine_resource *out,
                         size_t room,
                         size_t *count);

// The key of a resource's name: see trine_key_of(). [B], once for each name.
trine_status trine_worker_key_of(struct trine_worker *worker, const char *name, struct trine_key *out);

// Takes no new work: what this worker was given it still serves, then trine_next() gives TRINE_DRAINED. [B] Clients
// notice nothing.
trine_status trine_drain(struct trine_worker *worker);

// The worker's id on its bus, as trine_reply.worker says it; 0 where there is no such worker.
uint64_t trine_worker_id(struct trine_worker *worker);

// Has each event told to the callback, from within trine_next(): a right that was gained before the first request on
// it comes, one that is lost after the last one was answered, and before anybody else has it. NULL: to nobody.
trine_status trine_on_event(struct trine_worker *worker,
                            trine_event_callback callback,
                            void *user);

// A status's name, without the prefix: "NO_SUCH_SERVICE". For ever valid; never NULL.
const char *trine_status_name(trine_status status);

// What a status means, and what to do, in a sentence. For ever valid; never NULL.
const char *trine_status_text(trine_status status);

// Attaches a worker. [B] Arguments and failures as trine_connect().
trine_status trine_worker_open(const char *bus,
                               const struct trine_options *options,
                               struct trine_worker **out);

// Ends a worker: what it has not answered ends with TRINE_WORKER_ERROR, what it has not begun goes to others. [S] NULL
// is fine.
trine_status trine_worker_close(struct trine_worker *worker);

// Provides a service from now on. [B] A second time replaces its operations. Operations are numbered from 0 on, over
// all services in the order in which a worker provides them: *first, if not NULL, is the first one's number.
trine_status trine_provide(struct trine_worker *worker,
                           const char *service,
                           const char *const *operations,
                           size_t count,
                           uint32_t *first);

// Provides it no more. [B] What this worker was given already it still serves.
trine_status trine_withdraw(struct trine_worker *worker, const char *service);

// The next request, in the order in which they came. [B], but with a timeout of 0. TRINE_WOULD_BLOCK: none came in
// time. TRINE_INTERRUPTED: a signal, or trine_wake(). TRINE_DRAINED: there will be none. Events (trine_on_event()) are
// told from within.
trine_status trine_next(struct trine_worker *worker,
                        int64_t timeout_ns,
                        struct trine_incoming *out);

// Answers a request. If `data` is its `out`, what was built there is sent as it is; else it is copied once, to where
// the client reads it. It may be the request's own data. More than out_capacity gives the caller
// TRINE_REPLY_TOO_LARGE.
trine_status trine_answer(struct trine_worker *worker,
                          trine_request request,
                          const void *data,
                          size_t len);

// Answers with an error: TRINE_WORKER_ERROR, your number, and a message (1 KiB; what is longer is cut), or NULL.
trine_status trine_fail(struct trine_worker *worker,
                        trine_request request,
                        uint32_t code,
                        const char *message);

// Whether a request's caller has given it up, or is gone: 1 or 0. A negative number is a status: TRINE_EINVAL also in
// a forked child.
int trine_is_cancelled(struct trine_worker *worker,
                       trine_request request);

// The resources that a request is about: of a part of a scatter all that this worker is asked about, in the order in
// which its caller named them; else the one that it names, if it does. The first `room` of them are written to `out`,
// which may be NULL if there is none; *count says how many there are.
trine_status trine_request_keys(struct trine_worker *worker,
                                trine_request request,
                                struct trine_key *out,
                                size_t room,
                                size_t *count);

// Makes trine_next(), the one under way or else the next one, return TRINE_INTERRUPTED; once. From any thread, and from
// a signal handler, until trine_worker_close() is called. [S]
trine_status trine_wake(const struct trine_worker *worker);

// The descriptor for an event loop: see the head of this file. A negative number is a status: TRINE_EINVAL also in a
// forked child.
int trine_worker_fd(const struct trine_worker *worker);

// Before an event loop sleeps. TRINE_OK: poll the descriptor, then disarm. TRINE_READY: don't. [S] now and then.
trine_status trine_worker_arm(struct trine_worker *worker);

// After an event loop has slept. [S]
trine_status trine_worker_disarm(struct trine_worker *worker);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TRINE_H */
