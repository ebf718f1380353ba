//! The bytes of a control message.
//!
//! ```text
//! 0       4       8
//! ┌───────┬───────┬──────────────────────┬───────────────────────────────────────────────────┐
//! │ kind  │ len   │ body: fixed layout   │ tail: names (u16 length, UTF-8), text (the same), │
//! │ u32   │ u32   │ of the kind          │ worker ids (u64), as the kind has them            │
//! └───────┴───────┴──────────────────────┴───────────────────────────────────────────────────┘
//! ```
//! `len` counts all of it, and the socket says where a message ends: the two must agree. Integers are in the host's
//! byte order, since both ends are on it.
//!
//! A message is accepted only if encoding what was understood gives the same bytes again. That one comparison finds
//! reserved words that are not zero, flags that are neither 0 nor 1, and bytes behind the end, in every kind there
//! is or will be; the other checks only say more exactly what is wrong.

use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

use super::message::Message;
use super::name::Name;
use crate::resource::{Key, Resource};
use crate::{Fault, layout, limits};

/// The first word of Hello, Welcome and Refused: "this is Trine", in whatever version.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"TRINE\0ct");

/// What every message begins with.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    kind: u32,
    len: u32,
}

/// What a body has, for the test of PROTOCOL.md: name, offset and type of each field.
#[cfg(test)]
pub(super) trait Fields {
    fn fields() -> Vec<(&'static str, usize, &'static str)>;
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Pod, Zeroable)]
        pub(super) struct $name { $(pub $field: $type),* }
        const _: () = assert!(size_of::<$name>() == $bytes);
        #[cfg(test)]
        impl Fields for $name {
            fn fields() -> Vec<(&'static str, usize, &'static str)> {
                vec![$((stringify!($field), std::mem::offset_of!($name, $field), stringify!($type))),*]
            }
        }
    )*};
}

// The sizes are written out so that no layout changes unnoticed; the first three never may.
bodies! {
    /// Frozen in all versions.
    Hello, 40 { magic: u64, protocol: u32, role: u32, bus_id: [u64; 2], monotonic_ns: u64 }
    /// Frozen in all versions.
    Welcome, 48 { magic: u64, protocol: u32, pid: i32, bus_id: [u64; 2], epoch: u64, monotonic_ns: u64 }
    /// Frozen in all versions. A text follows.
    Refused, 16 { magic: u64, status: u32, protocol: u32 }

    Shape, 24 { slots: u32, reply_capacity: u32, request_arena: u64, reply_arena: u64 }
    OpenSession, 64 { session: u64, credential: [u64; 2], published: u64, settled: u64, shape: Shape }
    /// Two names follow: service, operation.
    OpenRoute, 8 { route: u32, reserved: u32 }
    OpenWorker, 40 { worker: u64, credential: [u64; 2], taken: u64, slots: u32, holds: u32 }
    /// Names follow: the service, and `count` operations.
    Provide, 8 { first: u16, count: u16, reserved: u32 }
    SessionMapped, 8 { index: u16, accepted: u16, reserved: u32 }
    SessionIndex, 8 { index: u16, reserved: [u16; 3] }
    Leave, 8 { taken: u64 }

    Identity, 24 { id: u64, credential: [u64; 2] }
    /// A text follows.
    RouteOpened, 8 { route: u32, status: u32 }
    WorkerOpened, 32 { identity: Identity, start: u64 }
    /// A text follows.
    Provided, 8 { status: u32, reserved: u32 }
    MapSession, 56 {
        index: u16, reserved: [u16; 3], session: u64, shape: Shape, uid: u32, gid: u32, pid: i32, reserved_2: u32,
    }
    /// Names follow, the service and `operations` of them, and then the ids of `workers`.
    ServiceRow, 16 { waiting: u64, operations: u16, workers: u16, reserved: u32 }
    WorkerRow, 40 {
        worker: u64, uid: u32, gid: u32, pid: i32, in_flight: u32, completed: u64, sessions: u32, share: u32,
    }
    SessionRow, 40 {
        session: u64, uid: u32, gid: u32, pid: i32, open: u32, calls: u64, waiting: u32, hot: u32,
    }
    InspectEnd, 24 { calls: u64, ended: u64, faults: u64 }

    /// A resource, and what is done with it: `kind` is 0 = all, 1 = a number, 2 = a name's hash (both in `first`),
    /// 3 = a range, 4 = share `first` of `last`.
    Item, 24 { action: u16, kind: u16, reserved: u32, first: u64, last: u64 }
    /// Names follow, the service and `operations` of them, and then the items of `resources`.
    /// Bit i of `idempotent` is the i-th operation's; `stall_ms` 0 is the director's own, the highest number for ever.
    Register, 24 {
        first: u16, operations: u16, policy: u16, unheld: u16, resources: u32, stall_ms: u32, idempotent: u64,
    }
    /// The service's name follows, and `count` items.
    Change, 8 { count: u32, reserved: u32 }
    Drain, 8 { worker: u64 }
    KeyNamed, 16 { status: u32, reserved: u32, word: u64 }
    /// The service's name and an item follow, but for Draining.
    Right, 16 { sequence: u64, before: u64 }

    OpenSessionIn, 72 { session: u64, credential: [u64; 2], published: u64, settled: u64, shape: Shape, domain: u64 }
    /// Two names follow, service and operation, an item, and the ids of `groups`.
    Explain, 16 { uid: u32, gid: u32, groups: u32, reserved: u32 }
    RouteElsewhere, 16 { route: u32, reserved: u32, domain: u64 }
    /// Three texts follow: service, operation, origin.
    DenialRow, 16 { count: u64, uid: u32, verb: u32 }
    /// Two texts follow: what is so, and what says so.
    ExplainRow, 16 { worker: u64, topic: u32, reserved: u32 }
    /// A text follows.
    ExplainEnd, 16 { worker: u64, status: u32, reserved: u32 }
    /// A text follows.
    Reloaded, 8 { applied: u32, reserved: u32 }
}

impl From<layout::SessionShape> for Shape {
    fn from(s: layout::SessionShape) -> Shape {
        let layout::SessionShape { slots, reply_capacity, request_arena, reply_arena } = s;
        Shape { slots, reply_capacity, request_arena, reply_arena }
    }
}

/// Writes one message into a buffer that it is alone in.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    kind: u32,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>, kind: u32) -> Self {
        out.clear();
        out.extend_from_slice(bytemuck::bytes_of(&Header { kind, len: 0 }));
        Writer { out, kind }
    }

    pub fn body(self, body: &impl NoUninit) -> Self {
        self.out.extend_from_slice(bytemuck::bytes_of(body));
        self
    }

    pub fn name(self, name: &Name) -> Self {
        self.string(name.as_str())
    }

    pub fn names(self, names: &[Name]) -> Self {
        names.iter().fold(self, Writer::name)
    }

    /// A text for a person; what is too long is cut.
    pub fn text(self, text: &str) -> Self {
        let mut end = text.len().min(limits::MESSAGE_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.string(&text[..end])
    }

    pub fn ids(self, ids: &[u64]) -> Self {
        self.out.extend_from_slice(bytemuck::cast_slice(ids));
        self
    }

    /// Resources, each with what is done with it.
    pub fn items(self, items: impl IntoIterator<Item = (u16, Resource)>) -> Self {
        items.into_iter().fold(self, |w, (action, resource)| {
            let (kind, first, last) = match resource {
                Resource::All => (0, 0, 0),
                Resource::Key(key) => (1 + u16::from(key.is_name()), key.word(), 0),
                Resource::Range { first, last } => (3, first, last),
                Resource::Share { index, of } => (4, u64::from(index), u64::from(of)),
            };
            w.body(&Item { action, kind, reserved: 0, first, last })
        })
    }

    pub fn end(self) {
        let header = Header { kind: self.kind, len: self.out.len() as u32 };
        self.out[..size_of::<Header>()].copy_from_slice(bytemuck::bytes_of(&header));
    }

    fn string(self, string: &str) -> Self {
        self.out.extend_from_slice(&(string.len() as u16).to_ne_bytes());
        self.out.extend_from_slice(string.as_bytes());
        self
    }
}

/// Reads one message, whatever it is.
pub(super) struct Reader<'a> {
    kind: u32,
    bytes: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the header.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader { kind: 0, bytes, rest: bytes };
        let header: Header = reader.body()?;
        reader.kind = header.kind;
        if bytes.len() > limits::MESSAGE_BYTES_MAX {
            return Err(reader.fault("it is too long"));
        }
        if header.len as usize != bytes.len() {
            return Err(reader.fault("its header says another length"));
        }
        Ok(reader)
    }

    pub fn kind(&self) -> u32 {
        self.kind
    }

    pub fn fault(&self, why: &'static str) -> Fault {
        Fault::Message { kind: self.kind, len: self.bytes.len(), why }
    }

    pub fn body<T: AnyBitPattern>(&mut self) -> Result<T, Fault> {
        self.take(size_of::<T>()).map(bytemuck::pod_read_unaligned)
    }

    /// A body that begins with the magic word.
    pub fn magic(&self, magic: u64) -> Result<(), Fault> {
        if magic == MAGIC { Ok(()) } else { Err(self.fault("it is not Trine's")) }
    }

    pub fn name(&mut self) -> Result<Name, Fault> {
        let name = self.string(limits::NAME_MAX)?;
        Name::from_wire(name).map_err(|why| self.fault(why))
    }

    pub fn names(&mut self, count: u16) -> Result<Vec<Name>, Fault> {
        if usize::from(count) > limits::OPERATIONS_MAX {
            return Err(self.fault("it has too many names"));
        }
        (0..count).map(|_| self.name()).collect()
    }

    pub fn text(&mut self) -> Result<String, Fault> {
        self.string(limits::MESSAGE_MAX).map(String::from)
    }

    pub fn ids(&mut self, count: u16) -> Result<Vec<u64>, Fault> {
        if usize::from(count) > limits::ROW_WORKERS_MAX {
            return Err(self.fault("it has too many workers"));
        }
        (0..count).map(|_| self.body()).collect()
    }

    pub fn item(&mut self) -> Result<(u16, Resource), Fault> {
        let Item { action, kind, first, last, .. } = self.body()?;
        let resource = match kind {
            0 => Resource::All,
            1 | 2 => Resource::Key(Key::from_word(first, kind == 2)),
            3 => Resource::Range { first, last },
            4 => Resource::Share { index: first as u32, of: last as u32 },
            _ => return Err(self.fault("it has a kind of resource that does not exist")),
        };
        Ok((action, resource))
    }

    pub fn items(&mut self, count: u32) -> Result<Vec<(u16, Resource)>, Fault> {
        if count as usize > limits::RESOURCES_PER_CHANGE {
            return Err(self.fault("it has too many resources"));
        }
        (0..count).map(|_| self.item()).collect()
    }

    pub fn status(&self, number: u32) -> Result<crate::Status, Fault> {
        let status = u16::try_from(number).ok().and_then(crate::Status::from_number);
        status.ok_or_else(|| self.fault("it has a status that does not exist"))
    }

    pub fn session_shape(&self, s: Shape) -> Result<layout::SessionShape, Fault> {
        let Shape { slots, reply_capacity, request_arena, reply_arena } = s;
        let shape = layout::SessionShape { slots, reply_capacity, request_arena, reply_arena };
        if shape.is_valid() { Ok(shape) } else { Err(self.fault("its sizes are out of bounds")) }
    }

    pub fn work_shape(&self, slots: u32) -> Result<layout::WorkShape, Fault> {
        let shape = layout::WorkShape { slots };
        if shape.is_valid() { Ok(shape) } else { Err(self.fault("its sizes are out of bounds")) }
    }

    /// The last check: the message means exactly its bytes.
    pub fn end<M: Message>(self, message: M) -> Result<M, Fault> {
        let mut again = Vec::with_capacity(self.bytes.len());
        message.encode(&mut again);
        if again == self.bytes { Ok(message) } else { Err(self.fault("it has bits that mean nothing")) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.fault("it is too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn string(&mut self, max: usize) -> Result<&'a str, Fault> {
        let len = usize::from(self.body::<u16>()?);
        if len > max {
            return Err(self.fault("it has a text that is too long"));
        }
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.fault("it has a text that is not UTF-8"))
    }
}

/// A name with its length.
const NAME_BYTES: usize = 2 + limits::NAME_MAX;
/// A service's row, the longest message: the service and its operations, and the workers.
const ROW_BYTES: usize = size_of::<Header>()
    + size_of::<ServiceRow>()
    + (1 + limits::OPERATIONS_MAX) * NAME_BYTES
    + limits::ROW_WORKERS_MAX * 8;
const _: () = assert!(ROW_BYTES <= limits::MESSAGE_BYTES_MAX);
/// A registration, the other long one.
const REGISTER_BYTES: usize = size_of::<Header>()
    + size_of::<Register>()
    + (1 + limits::OPERATIONS_MAX) * NAME_BYTES
    + limits::RESOURCES_PER_CHANGE * size_of::<Item>();
const _: () = assert!(REGISTER_BYTES <= limits::MESSAGE_BYTES_MAX);
const _: () = assert!(size_of::<Header>() + 16 + 2 + limits::MESSAGE_MAX <= limits::MESSAGE_BYTES_MAX);
