//! Every bound of the system in one place, with the reason for each.
//!
//! A number from a peer is compared with one of these before it is used for anything, so the memory, the time and
//! the table space that a peer can ask for are finite by construction.

/// Version of every byte that two parties exchange. A director and its peers must agree on it exactly.
pub const PROTOCOL: u32 = 1;

/// Longest name of a bus, in bytes: it is part of a socket's path, which the kernel limits to 107 bytes.
pub const BUS_NAME_MAX: usize = 48;
/// Longest name of a service or an operation, in bytes: OPERATIONS_MAX of them fit one control message.
pub const NAME_MAX: usize = 64;
/// Operations that one worker provides of one service: they travel in one control message.
pub const OPERATIONS_MAX: usize = 64;
/// Longest message of an application error, in bytes; what is longer is cut at a character boundary.
pub const MESSAGE_MAX: usize = 1024;

/// Longest control message, in bytes: each thread that receives keeps room for one. The longest that exists is the row of a
/// service with all its names and workers, 6.4 KiB.
pub const MESSAGE_BYTES_MAX: usize = 8192;
/// Descriptors that one control message carries at most: what is more is closed, and a fault of its sender.
pub const MESSAGE_DESCRIPTORS_MAX: usize = 4;
/// Workers that one row about a service names; a service with more of them has several rows.
pub const ROW_WORKERS_MAX: usize = 256;

/// Reply slots of a session: open calls, by default. A call holds its slot until its reply right has come back.
pub const SLOTS_DEFAULT: u32 = 64;
/// Most reply slots of a session.
pub const SLOTS_MAX: u32 = 4096;
/// Bytes of the reply buffer that each slot has of its own, by default.
pub const REPLY_CAPACITY_DEFAULT: u32 = 4096;
/// Bytes of an arena, by default. Address space only: a page costs memory when it is first written.
pub const ARENA_DEFAULT: u64 = 64 << 20;
/// Most bytes of an arena: its allocator counts in 64-byte units, with 32 bits.
pub const ARENA_MAX: u64 = 64 << 30;
/// Most bytes of one payload: its length is a 32-bit field.
pub const PAYLOAD_MAX: u64 = u32::MAX as u64;
/// Unit and alignment of arena allocations, in bytes: a cache line, so that payloads don't share one.
pub const ARENA_UNIT: u64 = 64;

/// Slots of a work ring, and entries of its ledger: a worker has at most one less in flight.
pub const WORK_SLOTS_DEFAULT: u32 = 256;
/// Most slots of a work ring. An entry's number has 16 bits in the record.
pub const WORK_SLOTS_MAX: u32 = 4096;
/// Sessions that one worker serves at a time: the dense index has 16 bits in the record.
pub const SESSIONS_PER_WORKER_MAX: usize = 1 << 16;

/// Routes of a session: their number has 32 bits in the record, and the director's table is an array.
pub const ROUTES_MAX: u32 = 4096;
/// Workers of a director: a session's table of mappings is an array of this many entries at most.
pub const WORKERS_MAX: usize = 1024;
/// Sessions of a director.
pub const SESSIONS_MAX: usize = 8192;
/// Services of a director.
pub const SERVICES_MAX: usize = 65_536;

/// Resources in one change of what a worker declares or holds: they travel in one control message, which is what
/// makes a change atomic, and are worked through in one turn of the director.
pub const RESOURCES_PER_CHANGE: usize = 128;
/// Ranges and shares that a worker declares in one service: a change copies them, and a call looks through the shares.
pub const RANGES_MAX: usize = 1024;
/// Claims to exclusive rights that wait for a hand-over: each hand-over looks through those of its service.
pub const CLAIMS_MAX: usize = 1024;
/// Names of resources that one client or worker asks the keys of: the director keeps them, to tell two names with
/// the same hash apart.
pub const NAMED_KEYS_MAX: usize = 65_536;

/// Keys of one scatter: a part's keys are the bits of one word.
pub const SCATTER_KEYS_MAX: usize = 64;
/// Parts of one scatter: as many as there are workers.
pub const PARTS_MAX: usize = WORKERS_MAX;
/// Groups that a question about a request may name beside the first: they fit one control message.
pub const EXPLAIN_GROUPS_MAX: usize = 256;

/// A call's deadline where its caller says nothing: no call hangs, even on a worker that lives and never answers.
pub const DEADLINE_DEFAULT_NS: u64 = 30_000_000_000;
/// How long a client looks for a director before its calls end DIRECTOR_GONE.
pub const DIRECTOR_GONE_NS: u64 = 5_000_000_000;
/// After a director's death: how long its sessions and workers may take to come back to the next one.
pub const WINDOW_NS: u64 = 5_000_000_000;
/// How long a worker that has something in its hands may show no sign of life (take, answer, or look) before its
/// calls end by verdict, where its service says nothing.
pub const STALL_NS: u64 = 30_000_000_000;
/// Attempts, the first included, of a call whose workers died after they had begun it, where its operation is
/// declared idempotent.
pub const RUNS_MAX: u32 = 3;
/// How often a call that no worker had begun is tried again, unseen, before its caller hears of it.
pub const TRIES_MAX: u32 = 16;

const _: () = assert!(EXPLAIN_GROUPS_MAX <= ROW_WORKERS_MAX, "both are lists of ids in a message");
const _: () = assert!(SLOTS_MAX.is_power_of_two() && SLOTS_DEFAULT.is_power_of_two());
const _: () = assert!(SCATTER_KEYS_MAX <= PARTS_MAX && PARTS_MAX <= u16::MAX as usize);
const _: () = assert!(WORK_SLOTS_MAX.is_power_of_two() && WORK_SLOTS_MAX <= 1 << 16);
const _: () = assert!(ARENA_MAX / ARENA_UNIT <= 1 << 32);
