//! What crosses the border by value. A struct begins with its size, so that it can grow: see [`crate::input`].

use std::ffi::c_void;

use crate::status::trine_status;

/// A client of a bus.
pub struct trine_client {
    _opaque: [u8; 0],
}
/// A worker on a bus.
pub struct trine_worker {
    _opaque: [u8; 0],
}
/// A director in a thread of this process.
pub struct trine_director {
    _opaque: [u8; 0],
}

/// An operation of a service, as trine_route_of() found it. Its client's; outlives any director.
pub type trine_route = u32;
/// A call. 0 is none; never another call's.
pub type trine_ticket = u64;
/// A request in a worker's hands: the right, and the duty, to answer it once. 0 is none; never another request's.
pub type trine_request = u64;

/// A wait without end.
pub const TRINE_FOREVER: i64 = i64::MAX;
/// For trine_wait(): whichever call ends first.
pub const TRINE_ANY: trine_ticket = 0;

/// trine_options.waiting: yield the CPU for some microseconds, then sleep. Right for almost all.
pub const TRINE_WAIT_ADAPTIVE: u32 = 0;
/// trine_options.waiting: sleep at once.
pub const TRINE_WAIT_PARK: u32 = 1;
/// trine_options.waiting: never sleep, yield in between. No signal ends such a wait.
pub const TRINE_WAIT_YIELD: u32 = 2;
/// trine_options.waiting: never sleep, never yield: for who has a CPU of its own. No signal ends such a wait.
pub const TRINE_WAIT_SPIN: u32 = 3;

/// trine_options.flags: a wait goes on after a signal, instead of TRINE_INTERRUPTED.
pub const TRINE_RESTART: u32 = 1;
/// trine_call_args.flags: before the others of those that wait for a worker. None starves: see the manual.
pub const TRINE_HIGH: u32 = 1;
/// trine_call_args.flags: when nothing else waits.
pub const TRINE_LOW: u32 = 2;
/// trine_call_args.flags: director and worker note the time at each hop, for trine_reply. Costs four readings of the
/// clock.
pub const TRINE_TRACED: u32 = 4;
/// trine_reply.flags: the operation may have run. Without it: it did not, and never will.
pub const TRINE_RAN: u32 = 1;
/// trine_reply.flags: the last part of a scatter.
pub const TRINE_LAST: u32 = 2;
/// trine_incoming.flags: a part of a scatter: others have theirs. See key_mask, and trine_request_keys().
pub const TRINE_PART: u32 = 1;

/// What can be chosen about a handle; 0 is the default of each. What a kind of handle has no use for is ignored.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct trine_options {
    /// sizeof(trine_options).
    pub size: u32,
    /// TRINE_RESTART.
    pub flags: u32,
    /// TRINE_WAIT_…
    pub waiting: u32,
    /// Client: calls that can be open at a time. Worker: requests that can wait at it. A power of two.
    pub slots: u32,
    /// Client: bytes of reply that every call has room for without asking.
    pub reply_capacity: u32,
    /// 0.
    pub reserved_word: u32,
    /// Client: bytes for requests of more than 64 bytes. Memory that is never written costs nothing.
    pub request_arena: u64,
    /// Client: bytes for replies that ask for more than reply_capacity.
    pub reply_arena: u64,
    /// Client: how long calls look for a director before they end with TRINE_DIRECTOR_GONE.
    pub director_gone_ns: u64,
    /// 0.
    pub reserved: [u64; 2],
}

/// One resource of a service: a number, or a name. The two never meet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct trine_key {
    /// The number, or what stands for the name.
    pub word: u64,
    /// TRINE_NUMBER or TRINE_NAME; 0 is no key.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// What more is to be said of a call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct trine_call_args {
    /// sizeof(trine_call_args).
    pub size: u32,
    /// TRINE_HIGH or TRINE_LOW, TRINE_TRACED.
    pub flags: u32,
    /// When the call ends, answered or not, in nanoseconds from now. 0: 30 s.
    pub deadline_ns: i64,
    /// Room for a reply of so many bytes. 0: what trine_options.reply_capacity says.
    pub reply_capacity: u64,
    /// The resource that the call is about: TRINE_KEY(7), or what trine_key_of() gave. All zeros: none.
    pub key: trine_key,
}

/// How a call ended. Set `size`; the library fills in the rest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct trine_reply {
    /// sizeof(trine_reply).
    pub size: u32,
    /// As returned.
    pub status: trine_status,
    /// TRINE_RAN, TRINE_LAST.
    pub flags: u32,
    /// With TRINE_WORKER_ERROR: the worker's own number.
    pub code: u32,
    /// The call.
    pub ticket: trine_ticket,
    /// With TRINE_OK: the result, in place, until trine_reply_free() or trine_close(). What lies in shared memory a
    /// hostile worker could still change: copy, then check. Never NULL then; aligned for 8 bytes.
    pub data: *const c_void,
    /// Its bytes.
    pub len: u64,
    /// The library's own note of what is held.
    pub held: u64,
    /// With TRINE_REPLY_TOO_LARGE: the room that the result needs. With TRINE_TOO_MANY_PARTS: how many there would be.
    pub needed: u64,
    /// The worker that answered.
    pub worker: u64,
    /// Of a part of a scatter over keys: which of them it is about, a bit for each place in the list.
    pub key_mask: u64,
    /// Of a part: how many there are in all. 0: it is no part.
    pub parts: u32,
    /// 0.
    pub reserved: u32,
    /// With TRINE_OK, of a call with TRINE_TRACED, on CLOCK_MONOTONIC: when the director took it. Else all are 0.
    pub taken_ns: u64,
    /// When the director pushed it to the worker.
    pub pushed_ns: u64,
    /// When the worker began it.
    pub began_ns: u64,
    /// When the worker answered.
    pub replied_ns: u64,
    /// When this client saw the answer.
    pub received_ns: u64,
}

/// A request. Set `size`; the library fills in the rest. All pointers are valid until it is answered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct trine_incoming {
    /// sizeof(trine_incoming).
    pub size: u32,
    /// Which operation: trine_provide() numbers them from 0 on.
    pub operation: u32,
    /// What trine_answer() and trine_fail() are given.
    pub request: trine_request,
    /// The payload, in place: a hostile client could still change it, so copy, then check. Never NULL; aligned for 8
    /// bytes.
    pub data: *const c_void,
    /// Its bytes.
    pub len: u64,
    /// Where the reply may be built in place. NULL if the client has given no room that can be.
    pub out: *mut c_void,
    /// How many bytes a reply may have.
    pub out_capacity: u64,
    /// When the caller stops waiting, on CLOCK_MONOTONIC. 0: never.
    pub deadline_ns: u64,
    /// Who asks, as the kernel said when it connected.
    pub uid: u32,
    /// The same.
    pub gid: u32,
    /// The same.
    pub pid: i32,
    /// TRINE_PART.
    pub flags: u32,
    /// The resource that it is about. Kind 0: none, or it is a part.
    pub key: trine_key,
    /// Of a part of a scatter over keys: which of the caller's keys this worker is asked about, a bit for each place in
    /// the list.
    pub key_mask: u64,
}
