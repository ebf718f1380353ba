//! What lies where in shared memory: the records, and the five segments that hold them.
//!
//! Shared memory is an array of 64-bit words; a *line* here is 16 words (128 bytes), because x86 fetches cache
//! lines in adjacent pairs. Who writes a word is part of its layout: no line has two writers at a time.
//!
//! ```text
//! segment        written by            words, in order
//! outbox         client                waiting | cancel[N] | request ring [R] | arena
//! inbox          reply right's holder  (director: polled | notices, verdict[N]) reply[N] | default buffers, arena
//! work segment   director              head | control sequence | wanted | work ring [S] | ledger [M]
//! progress page  worker                taken, completed | waiting | done[M]
//! ```
//!
//! A record is one line. Its first eight words are enough for a payload of up to 16 bytes (32 in a reply), and
//! then neither end touches the other eight.

use crate::limits;
use crate::resource::Key;

/// Words of a line, and of a record: 128 bytes.
pub const LINE: usize = 16;
/// Words of the half of a record that always moves.
pub const HEAD: usize = 8;
/// Words of a page: the unit in which segments are mapped.
pub const PAGE: usize = 512;

/// A record as both ends hold it in private memory.
pub type Record = [u64; LINE];

/// Positions of rings are below this. None gets there in a thousand years: who says so is wrong.
pub const POSITION_END: u64 = 1 << 62;

/// Bits of a ticket; the rest of its word carries the ledger entry on the way to the worker.
pub const TICKET_BITS: u32 = 48;
pub(crate) const TICKET_MASK: u64 = (1 << TICKET_BITS) - 1;

/// Payload bytes that a request's head carries.
pub const INLINE_HEAD: usize = 16;
/// Payload bytes that a reply's head carries, when it is not traced.
pub const REPLY_INLINE_HEAD: usize = 32;
/// Payload bytes that a record's second half carries.
pub const INLINE_TAIL: usize = 64;
/// The same in a traced request: the director's two time stamps travel in the last two words.
pub const INLINE_TAIL_TRACED: usize = 48;

/// Flags of a request and of a work record.
pub mod flag {
    /// The key word means something.
    pub const HAS_KEY: u16 = 1;
    /// The caller will not look at the reply; its stamp still frees the slot.
    pub const ONE_WAY: u16 = 1 << 1;
    /// Director and worker note the time at each hop.
    pub const TRACED: u16 = 1 << 2;
    /// The reply buffer is at the offset in the record, not the slot's own.
    pub const REPLY_AT: u16 = 1 << 3;
    /// The key is a name's hash, not a number.
    pub const NAME_KEY: u16 = 1 << 4;
    /// Goes before others that wait.
    pub const HIGH: u16 = 1 << 5;
    /// Goes after others that wait.
    pub const LOW: u16 = 1 << 6;
    /// One of several records that are one request to several workers: see [`scatter`](crate::scatter).
    pub const SCATTER: u16 = 1 << 7;
    /// The ticket was published to an earlier director too: its ledgers say what has become of it.
    pub const AGAIN: u16 = 1 << 8;
    /// With `AGAIN`: its caller has given it up, so it is not to be dispatched.
    pub const QUARANTINED: u16 = 1 << 9;
    /// The flags that exist; a record with others is a fault.
    pub const ALL: u16 =
        HAS_KEY | ONE_WAY | TRACED | REPLY_AT | NAME_KEY | HIGH | LOW | SCATTER | AGAIN | QUARANTINED;
}

/// Where a payload of `len` bytes travels in a request with these flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the first half of the record.
    Head,
    /// In its second half.
    Tail,
    /// In the arena; the record has the offset.
    Arena,
}

/// The one rule that client and worker share about where a request's payload lies.
#[inline]
pub fn place(len: usize, flags: u16) -> Place {
    let tail = match flags & (flag::TRACED | flag::SCATTER) {
        0 => INLINE_TAIL,
        flag::TRACED => INLINE_TAIL_TRACED,
        _ => 0,
    };
    match len {
        0..=INLINE_HEAD if flags & flag::REPLY_AT == 0 => Place::Head,
        _ if len <= tail => Place::Tail,
        _ => Place::Arena,
    }
}

/// A request, as the client publishes it (`operation` is its route's number) and as the director pushes it on
/// (`operation` is the worker's number for it, and session and entry are filled in).
///
/// ```text
/// word  request                              work record
/// 0     stamp: position + 1                  stamp: position + 1
/// 1     ticket                               ticket (48) | ledger entry (16)
/// 2     route (32) | flags (16)              operation (16) | session index (16) | flags (16) | session tag (16)
/// 3     key
/// 4     deadline, ns of CLOCK_MONOTONIC, 0 = none
/// 5     payload length (32) | reply capacity (32)
/// 6-7   16 bytes of payload, or payload offset in the outbox's arena and reply offset in the inbox's
/// 8-15  up to 64 bytes of payload; traced: 48, then when the director took and when it pushed;
///       of a scatter: see `scatter`
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The call's attempt, unique in its session for ever.
    pub ticket: u64,
    /// The number of the route (request) or of the worker's operation (work record).
    pub operation: u32,
    /// See [`flag`].
    pub flags: u16,
    /// The resource, when `HAS_KEY`.
    pub key: u64,
    /// When the call ends unanswered; 0 = never.
    pub deadline_ns: u64,
    /// Bytes of payload.
    pub len: u32,
    /// Bytes that the reply may have.
    pub capacity: u32,
    /// The ledger entry; work records only.
    pub entry: u16,
    /// The worker's dense index of the session; work records only.
    pub session_index: u16,
    /// The low bits of the session's id; work records only.
    pub session_tag: u16,
}

impl Request {
    /// Reads the fields of a record that a client published.
    #[inline]
    pub fn of_client(r: &Record) -> Request {
        Request {
            ticket: r[1] & TICKET_MASK,
            operation: r[2] as u32,
            flags: (r[2] >> 32) as u16,
            key: r[3],
            deadline_ns: r[4],
            len: r[5] as u32,
            capacity: (r[5] >> 32) as u32,
            ..Request::default()
        }
    }

    /// Reads the fields of a record that the director pushed.
    #[inline]
    pub fn of_director(r: &Record) -> Request {
        Request {
            operation: u32::from(r[2] as u16),
            entry: (r[1] >> TICKET_BITS) as u16,
            session_index: (r[2] >> 16) as u16,
            session_tag: (r[2] >> 48) as u16,
            ..Request::of_client(r)
        }
    }

    /// Writes the head of a client's record; the payload's words are the caller's.
    #[inline]
    pub fn write(&self, r: &mut Record) {
        r[1] = self.ticket;
        r[2] = u64::from(self.operation) | u64::from(self.flags) << 32;
        r[3] = self.key;
        r[4] = self.deadline_ns;
        r[5] = u64::from(self.len) | u64::from(self.capacity) << 32;
    }

    /// Turns a client's record into a worker's, in place: all that the director adds to a call.
    #[inline]
    pub fn address(r: &mut Record, entry: u16, operation: u16, session_index: u16, session_tag: u16) {
        r[1] = (r[1] & TICKET_MASK) | u64::from(entry) << TICKET_BITS;
        let flags = (r[2] >> 32) & 0xffff;
        r[2] = u64::from(operation)
            | u64::from(session_index) << 16
            | flags << 32
            | u64::from(session_tag) << 48;
    }

    /// Changes the flags of a record in place.
    pub fn set_flags(r: &mut Record, set: u16, clear: u16) {
        r[2] = (r[2] | u64::from(set) << 32) & !(u64::from(clear) << 32);
    }

    /// The resource that it asks for, if it names one.
    #[inline]
    pub fn resource(&self) -> Option<Key> {
        let is_name = self.flags & flag::NAME_KEY != 0;
        (self.flags & flag::HAS_KEY != 0).then(|| Key::from_word(self.key, is_name))
    }

    /// Its class among those that wait: 0 goes first.
    #[inline]
    pub fn class(&self) -> usize {
        match self.flags & (flag::HIGH | flag::LOW) {
            0 => 1,
            flag::LOW => 2,
            _ => 0,
        }
    }

    /// Whether the record's second half carries anything.
    #[inline]
    pub fn needs_tail(r: &Record) -> bool {
        let flags = (r[2] >> 32) as u16;
        flags & (flag::TRACED | flag::SCATTER) != 0 || place(r[5] as u32 as usize, flags) == Place::Tail
    }
}

/// Words 6 and 7 of a request whose payload is not in its head.
pub const WORD_PAYLOAD_AT: usize = 6;
/// See [`WORD_PAYLOAD_AT`].
pub const WORD_REPLY_AT: usize = 7;
/// Where the director notes, in a traced record, when it took it; the next word says when it pushed it.
pub const WORD_TAKEN_NS: usize = 14;

/// A reply, in the client's inbox, at the slot of its ticket.
///
/// ```text
/// word  reply
/// 0     stamp: ticket + 1
/// 1     status (16) | flags (16) | worker (32)
/// 2     application's error code (32) | none (32); with NO_PART: the index of the part that its key is in
/// 3     length in bytes; with REPLY_TOO_LARGE: the capacity needed; with TOO_MANY_PARTS: the parts
/// 4-7   32 bytes of payload; traced: director took, director pushed, worker began, worker replied (ns)
/// 8-15  up to 64 bytes of payload
/// ```
/// Longer payloads lie where the client reserved room for them, which only the client's private memory says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyHead {
    /// See [`Status`](crate::Status).
    pub status: u16,
    /// See [`reply_flag`].
    pub flags: u16,
    /// The worker that answered; 0 = the director did.
    pub worker: u32,
    /// The application's own error code, with WORKER_ERROR.
    pub code: u32,
    /// Bytes of payload.
    pub len: u64,
}

/// Flags of a reply.
pub mod reply_flag {
    /// Words 4 to 7 are time stamps.
    pub const TRACED: u16 = 1;
    /// With WORKER_DIED: the operation is declared idempotent, so the call may run again.
    pub const MAY_RERUN: u16 = 1 << 1;
}

/// Where a reply's payload lies; the worker and the client both ask here.
#[inline]
pub fn reply_place(len: u64, flags: u16) -> Place {
    match len {
        0..=32 if flags & reply_flag::TRACED == 0 => Place::Head,
        0..=64 => Place::Tail,
        _ => Place::Arena,
    }
}

impl ReplyHead {
    /// Reads the head of a reply.
    #[inline]
    pub fn of(r: &Record) -> ReplyHead {
        ReplyHead {
            status: r[1] as u16,
            flags: (r[1] >> 16) as u16,
            worker: (r[1] >> 32) as u32,
            code: r[2] as u32,
            len: r[3],
        }
    }

    /// Writes it; words 4 and up are the caller's.
    #[inline]
    pub fn write(&self, r: &mut Record) {
        r[1] = u64::from(self.status) | u64::from(self.flags) << 16 | u64::from(self.worker) << 32;
        r[2] = u64::from(self.code);
        r[3] = self.len;
    }

    /// Whether the record's second half carries anything.
    #[inline]
    pub fn needs_tail(r: &Record) -> bool {
        let head = ReplyHead::of(r);
        reply_place(head.len, head.flags) == Place::Tail && head.len > 0
    }
}

const fn up(words: usize, unit: usize) -> usize {
    words.div_ceil(unit) * unit
}

/// Sizes of a session, chosen by the client and checked by everyone who maps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionShape {
    /// N: reply slots, a power of two.
    pub slots: u32,
    /// Bytes of the reply buffer that each slot has of its own.
    pub reply_capacity: u32,
    /// Bytes of the outbox's arena.
    pub request_arena: u64,
    /// Bytes of the inbox's arena, the slots' own buffers (at its start) not counted.
    pub reply_arena: u64,
}

impl Default for SessionShape {
    fn default() -> Self {
        SessionShape {
            slots: limits::SLOTS_DEFAULT,
            reply_capacity: limits::REPLY_CAPACITY_DEFAULT,
            request_arena: limits::ARENA_DEFAULT,
            reply_arena: limits::ARENA_DEFAULT,
        }
    }
}

impl SessionShape {
    /// Whether every size is within its bound; a shape that isn't is refused before anything is mapped.
    pub fn is_valid(&self) -> bool {
        let arena = |bytes: u64| bytes <= limits::ARENA_MAX && bytes.is_multiple_of(4096);
        self.slots.is_power_of_two()
            && self.slots <= limits::SLOTS_MAX
            && self.reply_capacity >= 64
            && self.reply_capacity <= 1 << 20
            && u64::from(self.reply_capacity).is_multiple_of(limits::ARENA_UNIT)
            && arena(self.request_arena)
            && arena(self.reply_arena)
    }

    /// R: slots of the request ring. N new tickets are open at most, and up to N that are published again after a
    /// director's restart may stand before them: with 2N the ring can't overflow.
    pub fn ring_slots(&self) -> u64 {
        2 * u64::from(self.slots)
    }

    /// The outbox: where its parts are.
    pub fn outbox(&self) -> Outbox {
        let cancel = LINE;
        let ring = cancel + up(self.slots as usize, LINE);
        let words = up(ring + self.ring_slots() as usize * LINE, PAGE);
        Outbox { waiting: 0, cancel, ring, words, arena_bytes: self.request_arena }
    }

    /// The inbox: where its parts are.
    pub fn inbox(&self) -> Inbox {
        let notices = LINE;
        let verdict = 2 * LINE;
        let replies = verdict + up(self.slots as usize, LINE);
        let words = up(replies + self.slots as usize * LINE, PAGE);
        let own = (u64::from(self.slots) * u64::from(self.reply_capacity)).next_multiple_of(4096);
        Inbox {
            polled: 0,
            notices,
            verdict,
            replies,
            words,
            own_bytes: own,
            arena_bytes: own + self.reply_arena,
        }
    }
}

/// Word offsets in an outbox. Written by its client only; read by the director and the session's workers.
#[derive(Clone, Copy, Debug)]
pub struct Outbox {
    /// The client's parking word.
    pub waiting: usize,
    /// N words: ticket + 1 of the call that its caller gave up, by slot.
    pub cancel: usize,
    /// R records.
    pub ring: usize,
    /// Words of the part that the director maps; the arena begins here.
    pub words: usize,
    /// Bytes of the arena.
    pub arena_bytes: u64,
}

/// Word offsets in an inbox. The first three parts are written by the director, a reply slot by whoever holds its
/// ticket's reply right; all is read by the client.
#[derive(Clone, Copy, Debug)]
pub struct Inbox {
    /// Even while the director polls this session, odd while it wants to be rung.
    pub polled: usize,
    /// Counts verdicts, so that the client looks for one only when there is one.
    pub notices: usize,
    /// N words: ticket + 1 of a call that a living worker may never answer, by slot.
    pub verdict: usize,
    /// N records.
    pub replies: usize,
    /// Words of the part that the director maps; the arena begins here.
    pub words: usize,
    /// Bytes of the arena that are the slots' own buffers.
    pub own_bytes: u64,
    /// Bytes of the arena in all.
    pub arena_bytes: u64,
}

/// Sizes of a worker's segments, chosen by the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkShape {
    /// S, and M as well: slots of the work ring and entries of the ledger, a power of two.
    pub slots: u32,
}

impl Default for WorkShape {
    fn default() -> Self {
        WorkShape { slots: limits::WORK_SLOTS_DEFAULT }
    }
}

impl WorkShape {
    /// Whether the size is within its bound.
    pub fn is_valid(&self) -> bool {
        self.slots.is_power_of_two() && (2..=limits::WORK_SLOTS_MAX).contains(&self.slots)
    }

    /// The work segment: where its parts are.
    pub fn work(&self) -> Work {
        let ring = 4 * LINE;
        let ledger = ring + self.slots as usize * LINE;
        let words = up(ledger + self.slots as usize * LEDGER_ENTRY, PAGE);
        let (control, rights) = (WORK_CONTROL, WORK_CONTROL + 1);
        Work { head: 0, control, rights, wanted: 3 * LINE, ring, ledger, words }
    }

    /// The progress page: where its parts are.
    pub fn progress(&self) -> Progress {
        let done = 2 * LINE;
        Progress { taken: 0, completed: 1, waiting: LINE, done, words: up(done + self.slots as usize, PAGE) }
    }
}

/// Word of a work segment that counts control messages; it lies there in each, since it is written by another thread
/// than all else.
pub const WORK_CONTROL: usize = 2 * LINE;

/// Words of a ledger entry: position + 1, session, ticket, none.
pub const LEDGER_ENTRY: usize = 4;

/// Word offsets in a work segment. Written by the director only; read by its worker, and by the next director.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Two lines that say whose it is: see [`head`].
    pub head: usize,
    /// Counts the control messages sent to this worker, each once it can be read: so a worker that is busy reads its
    /// socket when there is one, and only then.
    pub control: usize,
    /// Counts the messages about rights among them: a record is taken only when all that were counted before it
    /// was pushed have been read.
    pub rights: usize,
    /// The director's parking word for this worker: odd while it holds work back and waits for room.
    pub wanted: usize,
    /// S records.
    pub ring: usize,
    /// M entries of [`LEDGER_ENTRY`] words.
    pub ledger: usize,
    /// Words in all.
    pub words: usize,
}

/// Words of a work segment's head: what the next director must know to tell whose ledger it is.
pub mod head {
    /// Written last of the head: [`WORD`].
    pub const MAGIC: usize = 0;
    /// "TRINE\0wk"
    pub const WORD: u64 = u64::from_be_bytes(*b"TRINE\0wk");
    /// Protocol version (32) | slots (32).
    pub const VERSION: usize = 1;
    /// The bus's id, two words.
    pub const BUS: usize = 2;
    /// The worker's id.
    pub const WORKER: usize = 4;
    /// The epoch of the director that made it.
    pub const EPOCH: usize = 5;
    /// The position of the first record.
    pub const START: usize = 6;
    /// The worker's process id.
    pub const PID: usize = 8;
    /// The process's start time, in clock ticks since boot.
    pub const START_TIME: usize = 9;
    /// The inode of the process's pidfd.
    pub const PIDFD_INODE: usize = 10;
    /// The boot's id, two words.
    pub const BOOT: usize = 12;
    /// The inode of the pid namespace.
    pub const PID_NAMESPACE: usize = 14;
    /// What the director seals the keys of a scatter with, for this worker: two words, which clients never see.
    pub const SEAL: usize = 16;
    /// Eight words, a bit for each service (by a hash of its name): the worker may hold an exclusive right there. Bits
    /// are set before the worker hears of a right, and stay. The data thread writes
    /// them, when the segment has long been linked.
    pub const HOLDS: usize = 24;
}

/// Word offsets in a progress page. Written by its worker only; read by the director.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Position + 1 of the last record that the worker began: written before it runs.
    pub taken: usize,
    /// How many it has answered.
    pub completed: usize,
    /// The worker's parking word.
    pub waiting: usize,
    /// M words: position + 1 of the last record that was done with this ledger entry.
    pub done: usize,
    /// Words in all.
    pub words: usize,
}

const _: () = assert!(size_of::<Record>() == 128);
const _: () = assert!(PAGE * 8 == 4096);
const _: () = assert!(REPLY_INLINE_HEAD == (HEAD - 4) * 8 && INLINE_HEAD == (HEAD - 6) * 8);
const _: () = assert!(INLINE_TAIL == (LINE - HEAD) * 8 && INLINE_TAIL_TRACED == (WORD_TAKEN_NS - HEAD) * 8);
const _: () =
    assert!(head::SEAL + 2 <= head::HOLDS && head::HOLDS + 8 == WORK_CONTROL && WORK_CONTROL == 2 * LINE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addressing_keeps_what_the_client_wrote() {
        let asked = Request {
            ticket: 0x1234_5678_9abc,
            operation: 7,
            flags: flag::HAS_KEY | flag::TRACED,
            key: 9,
            deadline_ns: 11,
            len: 13,
            capacity: 17,
            ..Request::default()
        };
        let mut record = [0; LINE];
        asked.write(&mut record);
        assert_eq!(Request::of_client(&record), asked);
        Request::address(&mut record, 0xfffe, 0xfedc, 0xba98, 0x7654);
        let work = Request::of_director(&record);
        assert_eq!(
            work,
            Request { operation: 0xfedc, entry: 0xfffe, session_index: 0xba98, session_tag: 0x7654, ..asked }
        );
    }

    #[test]
    fn parts_of_a_segment_do_not_overlap() {
        for slots in [1, 2, 64, limits::SLOTS_MAX] {
            let shape = SessionShape { slots, ..SessionShape::default() };
            assert!(shape.is_valid());
            let (o, i) = (shape.outbox(), shape.inbox());
            assert!(o.cancel + slots as usize <= o.ring && o.ring % LINE == 0);
            assert!(o.ring + shape.ring_slots() as usize * LINE <= o.words && o.words % PAGE == 0);
            assert!(i.verdict + slots as usize <= i.replies && i.replies % LINE == 0);
            assert!(i.replies + slots as usize * LINE <= i.words && i.words % PAGE == 0);
        }
        for slots in [2, 256, limits::WORK_SLOTS_MAX] {
            let shape = WorkShape { slots };
            let (w, p) = (shape.work(), shape.progress());
            assert!(w.ring + slots as usize * LINE <= w.ledger);
            assert!(w.ledger + slots as usize * LEDGER_ENTRY <= w.words);
            assert!(p.done + slots as usize <= p.words);
        }
    }
}
