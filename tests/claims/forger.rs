//! A client that writes what it likes into its own memory: records by hand, with whatever a client may not say.
//!
//! It attaches like any other, and then publishes into its request ring past its library, which does nothing meanwhile.
//! It need not ring: a director looks at everything once a second.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use trine::core::reply::Replies;
use trine::core::ring::Publisher;
use trine::core::{Read, Write};
use trine::layout::{Inbox, LINE, Outbox, Record, ReplyHead, Request, SessionShape, flag};
use trine::{Client, ClientOptions, Status, scatter};

use crate::scatter::worker;
use crate::support::{Place, eventually};

/// Memory of this process that others have mapped too.
struct Words {
    words: &'static [AtomicU64],
}

impl Words {
    /// The mapping of this process whose name ends so; the last one that was made.
    fn find(name: &str) -> Words {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().rfind(|line| line.contains(name)).expect("a mapping");
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|hex| usize::from_str_radix(hex, 16).unwrap());
        // SAFETY: the kernel says that these bytes are mapped, and the client that mapped them outlives the test's use
        // of them. They are aligned to a page, shared memory, and only ever accessed as atomics or by other processes.
        let words = unsafe { std::slice::from_raw_parts(from as *const AtomicU64, (to - from) / 8) };
        Words { words }
    }
}

impl Read for Words {
    fn load(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Relaxed)
    }

    fn acquire(&self) {
        fence(Ordering::Acquire);
    }
}

impl Write for Words {
    fn store(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Relaxed);
    }

    fn release(&self) {
        fence(Ordering::Release);
    }

    fn full(&self) {
        fence(Ordering::SeqCst);
    }
}

const SLOTS: u32 = 16;

/// The forger. One at a time in a process: it finds its memory by name.
struct Forger {
    _client: Client,
    route: u32,
    outbox: Words,
    inbox: Words,
    at: (Outbox, Inbox),
    ring: Publisher<LINE>,
    replies: Replies<LINE>,
}

static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Forger {
    fn new(place: &Place, operation: &str) -> Forger {
        // Of odd sizes, so that its mappings are known among those of other tests' clients.
        let options = ClientOptions::default().slots(SLOTS).arenas(1 << 20, 1 << 20);
        let client = place.client(options);
        let route = client.route("work", operation).unwrap().number();
        let shape = SessionShape {
            slots: SLOTS,
            request_arena: 1 << 20,
            reply_arena: 1 << 20,
            ..SessionShape::default()
        };
        let (out, at) = (shape.outbox(), shape.inbox());
        Forger {
            _client: client,
            route,
            outbox: Words::find("memfd:trine outbox"),
            inbox: Words::find("memfd:trine inbox"),
            ring: Publisher::new(out.ring, shape.ring_slots(), 0),
            replies: Replies::new(at.replies, u64::from(SLOTS)),
            at: (out, at),
        }
    }

    fn request(&self, slot: u64) -> Record {
        let request = Request {
            ticket: slot + u64::from(SLOTS),
            operation: self.route,
            capacity: 4096,
            ..Request::default()
        };
        let mut record = [0; LINE];
        request.write(&mut record);
        record
    }

    fn publish(&mut self, record: &Record) {
        self.ring.publish(&self.outbox, record, LINE);
    }

    /// The answer to the first ticket of a slot.
    fn answer(&self, slot: u64) -> Option<(Status, String)> {
        let record = self.replies.take(&self.inbox, slot + u64::from(SLOTS), ReplyHead::needs_tail)?;
        let head = ReplyHead::of(&record);
        let len = head.len as usize;
        let bytes = if len <= 32 {
            bytemuck::bytes_of(&record)[32..].to_vec()
        } else {
            bytemuck::bytes_of(&record)[64..].to_vec()
        };
        let text = String::from_utf8_lossy(&bytes[..len.min(bytes.len())]).into_owned();
        Some((Status::from_number(head.status).unwrap(), text))
    }

    fn wait(&self, slot: u64) -> (Status, String) {
        let mut answer = None;
        eventually("an answer", || {
            answer = self.answer(slot);
            answer.is_some()
        });
        answer.unwrap()
    }

    /// A list of numbers as keys, behind what a library would use.
    fn write_list(&self, at: u64, keys: &[u64]) {
        let first = self.at.0.words + at as usize / 8;
        self.outbox.store(first, 0);
        keys.iter().enumerate().for_each(|(i, &key)| self.outbox.store(first + 1 + i, key));
    }

    fn scattered(&self, index: u16, keys: &[u64], count: u16) -> Record {
        let mut record = self.request(u64::from(index));
        let request = Request {
            flags: flag::SCATTER | flag::HAS_KEY,
            key: keys[usize::from(index)],
            ..Request::of_client(&record)
        };
        request.write(&mut record);
        record[scatter::WORD_LIST] = 4096;
        scatter::Place { index, count }.write(&mut record);
        record
    }

    fn is_served(&self, place: &Place) -> bool {
        place.inspect().sessions.iter().any(|s| s.identity.pid == std::process::id() as i32)
    }
}

#[test]
fn claims_10_18_29_the_director_says_who_gets_the_result_whatever_the_client_wrote() {
    let _one = ONE.lock();
    let place = Place::new();
    let _director = place.director();
    let mut server = worker(&place, "server", &[]);
    let mut victim = place.role("client").ready();
    victim.say("work gate - mine");
    server.hear("begun");
    server.say("go");
    victim.hear("server");
    let mut forger = Forger::new(&place, "ask");
    let pid = std::process::id();
    // Where a work record has ledger entry, session index and session tag, a client's record has nothing to say; it
    // says every session that there is, or none at all.
    for slot in 0..8 {
        let mut record = forger.request(slot);
        record[1] |= slot << 48;
        record[2] |= slot << 48;
        record[6] = u64::from_le_bytes(*b"forged__");
        let request = Request { len: 8, ..Request::of_client(&record) };
        record[5] = u64::from(request.len) | u64::from(request.capacity) << 32;
        forger.publish(&record);
    }
    for slot in 0..8 {
        assert_eq!(forger.wait(slot), (Status::Ok, format!("server||0|{pid}|forged__")), "slot {slot}");
    }
    let pid = victim.pid();
    victim.say("work ask - after");
    assert!(victim.hear("server").ends_with(&format!("{pid}|after")));
    assert_eq!(place.inspect().faults, 0, "what nobody reads is no fault");
}

#[test]
fn a_list_that_is_changed_under_way_is_not_served() {
    let _one = ONE.lock();
    let place = Place::new();
    let _director = place.director();
    let mut server = worker(&place, "server", &[("exclusive", "wait"), ("acquire", "1-2")]);
    let mut other = place.role("client").ready();
    other.say("work gate 1 x");
    server.hear("begun");
    let mut forger = Forger::new(&place, "ask");
    forger.write_list(4096, &[1, 2]);
    for index in 0..2 {
        let record = forger.scattered(index, &[1, 2], 2);
        forger.publish(&record);
    }
    // The director has decided: the second ticket is no part. The server has not looked at the list yet.
    assert_eq!(forger.wait(1).0, Status::NoPart);
    forger.write_list(4096, &[1, 3]);
    server.say("go");
    other.hear("server");
    assert_eq!(forger.wait(0), (Status::Fault, String::new()), "3 is nobody's, and was not asked for");
}

/// Each of these ends the forger's session, and nobody else's; nothing of it is begun.
#[test]
fn scatters_that_can_not_be_are_faults() {
    let _one = ONE.lock();
    type Spoil = fn(&Forger) -> Vec<Record>;
    let keys: [u64; 16] = std::array::from_fn(|i| i as u64);
    const KEYS: [u64; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let cases: [(&str, Spoil); 10] = [
        ("broken off by a call", |f| vec![f.scattered(0, &KEYS, 2), f.request(5)]),
        ("broken off by another", |f| vec![f.scattered(0, &KEYS, 3), f.scattered(0, &KEYS, 2)]),
        ("out of order", |f| vec![f.scattered(1, &KEYS, 2)]),
        ("a count that changes", |f| vec![f.scattered(0, &KEYS, 3), f.scattered(1, &KEYS, 2)]),
        ("65 keys", |f| vec![f.scattered(0, &KEYS, 65)]),
        ("10,000 keys", |f| vec![f.scattered(0, &KEYS, 10_000)]),
        ("no keys", |f| vec![f.scattered(0, &KEYS, 0)]),
        ("a list beyond the arena", |f| {
            let mut record = f.scattered(0, &KEYS, 2);
            record[scatter::WORD_LIST] = (1 << 20) - 8;
            vec![record]
        }),
        ("another deadline", |f| {
            let mut record = f.scattered(1, &KEYS, 2);
            record[4] = u64::MAX;
            vec![f.scattered(0, &KEYS, 2), record]
        }),
        ("one slot twice", |f| {
            let mut record = f.scattered(1, &KEYS, 2);
            record[1] = 2 * u64::from(SLOTS);
            vec![f.scattered(0, &KEYS, 2), record]
        }),
    ];
    assert_eq!(keys, KEYS);
    let place = Place::new();
    let _director = place.director();
    let _server = worker(&place, "server", &[]);
    let mut other = place.role("client").ready();
    for (n, (what, spoil)) in cases.iter().enumerate() {
        let mut forger = Forger::new(&place, "ask");
        for record in spoil(&forger) {
            forger.publish(&record);
        }
        eventually(what, || place.inspect().faults > n as u64 && !forger.is_served(&place));
        assert!((0..16).all(|slot| forger.answer(slot).is_none()), "{what}: something of it was begun");
        other.say("work ask - x");
        other.hear("server");
    }
}
