//! Who a peer is, as the kernel says.

/// A process's user, group and number, taken from the kernel when it connected. A number is `u32::MAX`, or 0 for the
/// pid, where it can't be told from here: a process of another namespace is nobody known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process id, in the director's pid namespace.
    pub pid: i32,
}
