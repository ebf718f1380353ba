//! Replies that C reads in place: kept where their bytes don't move, until they are freed.
//!
//! A place is used again and again, so a call allocates nothing. What is up to 64 bytes long is copied here, and its
//! slot is free at once; what is longer stays in shared memory, and keeps its slot.

use std::ffi::c_void;

use trine::{Client, KeptReply, Reply};

/// Bytes that travel in a record.
pub const SMALL: usize = 64;
/// A payload that fits a record, aligned.
pub type Small = [u64; SMALL / 8];

#[derive(Default)]
struct Place {
    /// 0 while it is free.
    serial: u32,
    small: Small,
    large: Option<KeptReply>,
}

#[derive(Default)]
pub struct Shelf {
    /// Boxed, so that the bytes stay where they are when there are more places.
    #[expect(clippy::vec_box, reason = "C has pointers into them")]
    places: Vec<Box<Place>>,
    free: Vec<u32>,
    serial: u32,
}

/// What C is given of a reply.
pub struct Shelved {
    pub held: u64,
    pub data: *const c_void,
    pub len: usize,
}

impl Shelf {
    pub fn put(&mut self, reply: Reply<'_>) -> Shelved {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Box::default());
            self.places.len() as u32 - 1
        });
        self.serial = self.serial.wrapping_add(1).max(1);
        let place = &mut self.places[index as usize];
        place.serial = self.serial;
        let len = reply.bytes().len();
        let data = if len <= SMALL {
            copy_small(reply.bytes(), &mut place.small)
        } else {
            place.large.insert(reply.detach()).bytes().as_ptr().cast()
        };
        Shelved { held: u64::from(self.serial) << 32 | u64::from(index), data, len }
    }

    /// Takes one down. Whether it was there.
    pub fn free(&mut self, held: u64, client: &Client) -> bool {
        let (index, serial) = (held as u32, (held >> 32) as u32);
        let Some(place) = self.places.get_mut(index as usize).filter(|p| serial != 0 && p.serial == serial)
        else {
            return false;
        };
        place.serial = 0;
        // Attached again, it gives its slot back as it is dropped.
        drop(place.large.take().and_then(|kept| client.reattach(kept)));
        self.free.push(index);
        true
    }
}

/// Copies a payload of up to 64 bytes to where it stays. Behind it stand zeros: whoever reads too far finds nothing of
/// another caller's.
#[inline]
pub fn copy_small(bytes: &trine::Shared<'_>, small: &mut Small) -> *const c_void {
    *small = Small::default();
    bytes.read_at(0, bytemuck::bytes_of_mut(small));
    small.as_ptr().cast()
}
