//! Calls that go well: none lost, none wrong, whatever their number, order and size.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use trine::{ClientOptions, Status, Ticket, Until, Waiting};

use crate::support::{Place, Random, bytes, eventually, long, mix};

#[test]
fn a_million_calls_between_processes_are_all_answered_rightly() {
    let place = Place::new();
    let director = place.director();
    let workers = [place.worker(), place.worker()];
    let each = if long() { 1_000_000 } else { 500_000 };
    let callers = [0, 1].map(|_| place.role("caller").with("calls", each).ready());
    let mut slowest = 0.0f64;
    for caller in &callers {
        let said = caller.hear("done");
        let numbers: Vec<u64> = said.split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!((numbers[0], numbers[1]), (each, 0), "right and wrong replies");
        slowest = slowest.max(numbers[2] as f64 / 1e3);
    }
    println!(
        "{} calls between 5 processes in {slowest:.2} s: {:.0}/s",
        2 * each,
        2.0 * each as f64 / slowest
    );
    let seen = place.inspect();
    assert_eq!(seen.dispatched, 2 * each);
    assert_eq!(seen.workers.iter().map(|w| w.completed).sum::<u64>(), 2 * each);
    assert_eq!((seen.refused, seen.faults), (0, 0));
    for worker in workers {
        worker.stop();
    }
    director.stop();
}

#[test]
fn calls_in_flight_end_out_of_order_and_each_is_matched() {
    let place = Place::new();
    let _director = place.director();
    let _workers = [0; 4].map(|_| place.worker());
    let client = place.client(ClientOptions::default());
    let route = client.route("work", "sleep").unwrap();
    let mut random = Random(7);
    for _ in 0..5 {
        let mut sent: HashMap<Ticket, (usize, Vec<u8>)> = HashMap::new();
        for n in 0..64 {
            let mut request = (random.next() % 4000).to_le_bytes().to_vec();
            request.extend(bytes(random.next(), (random.next() % 300) as usize));
            let ticket = client.request(route).submit(&request, Until::Now).unwrap().detach();
            assert!(sent.insert(ticket, (n, request)).is_none(), "a ticket twice");
        }
        let mut order = Vec::new();
        while let Some(ticket) = client.wait_any(Until::Forever).unwrap() {
            let (n, request) = sent.remove(&ticket).expect("one that was sent, and once");
            let reply = client.pending(ticket).unwrap().wait().unwrap();
            assert_eq!(reply.bytes().to_vec(), mix(&request));
            order.push(n);
        }
        assert_eq!(order.len(), 64);
        assert!(!order.is_sorted(), "in order, by chance of 1 in 64!: {order:?}");
    }
}

/// Calls 100,000 times while one call is held, and returns how many of these were held up with it.
fn others_while_one_is_held(share_max: u64, workers: usize, operation: &str) -> usize {
    let place = Place::new();
    let _director = place.role("director").with("share_max", share_max).ready();
    let mut workers: Vec<_> = (0..workers).map(|_| place.worker()).collect();
    let client = place.client(ClientOptions::default());
    let (held, mix_route) = (client.route("work", operation).unwrap(), client.route("work", "mix").unwrap());
    let long_deadline = Instant::now() + Duration::from_secs(600);
    let held = client.request(held).deadline(long_deadline).submit(b"long", Until::Now).unwrap();
    let mut open: HashMap<Ticket, u64> = HashMap::new();
    let (mut sent, mut answered) = (0u64, 0u64);
    let all = 100_000;
    // Stops when those that are open don't end any more.
    loop {
        while sent < all && open.len() < 32 {
            let pending =
                client.request(mix_route).deadline(long_deadline).submit(&sent.to_le_bytes(), Until::Now);
            open.insert(pending.unwrap().detach(), sent);
            sent += 1;
        }
        match client.wait_any(Until::after(Duration::from_secs(if sent < all { 60 } else { 1 }))).unwrap() {
            Some(ticket) => {
                let n = open.remove(&ticket).expect("not the one that is held");
                let reply = client.pending(ticket).unwrap().wait().unwrap();
                assert_eq!(reply.bytes().to_vec(), mix(&n.to_le_bytes()));
                answered += 1;
            }
            None => break,
        }
        if answered == all {
            break;
        }
    }
    let held_up = open.len();
    assert_eq!(answered + held_up as u64, all);
    workers.iter_mut().for_each(|w| w.say("open"));
    assert_eq!(held.wait().unwrap().bytes().to_vec(), mix(b"long"));
    for (ticket, n) in open {
        assert_eq!(client.pending(ticket).unwrap().wait().unwrap().bytes().to_vec(), mix(&n.to_le_bytes()));
    }
    held_up
}

#[test]
fn a_long_call_holds_up_none_of_its_clients_others_but_those_behind_it() {
    let held_up = others_while_one_is_held(2, 2, "gate");
    assert!(held_up <= 1, "{held_up} of 100,000 were held up, and k - 1 is 1");
}

#[test]
fn a_worker_that_keeps_a_long_call_goes_on_with_all_others() {
    assert_eq!(others_while_one_is_held(128, 1, "keep"), 0);
}

#[test]
fn a_newcomer_is_served_by_a_worker_whose_ring_is_never_empty() {
    let place = Place::new();
    let _director = place.director();
    let _worker = place.worker();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = place.client(ClientOptions::default());
        let busy = first.route("work", "sleep").unwrap();
        let begun = first.request(busy).submit(&1u64.to_le_bytes(), Until::Forever).unwrap();
        begun.wait().unwrap();
        let enough = &enough;
        scope.spawn(move || {
            // Each holds the worker up for longer than the director needs to give it the next.
            let submit =
                || first.request(busy).submit(&5000u64.to_le_bytes(), Until::Forever).unwrap().detach();
            for _ in 0..32 {
                submit();
            }
            while !enough.load(Ordering::Acquire) {
                let ticket = first.wait_any(Until::Forever).unwrap().unwrap();
                first.pending(ticket).unwrap().wait().unwrap();
                submit();
            }
        });
        let newcomer = place.client(ClientOptions::default());
        let route = newcomer.route("work", "sleep").unwrap();
        let request = newcomer.request(route).deadline(Instant::now() + Duration::from_secs(5));
        let said = request
            .submit(&7u64.to_le_bytes(), Until::Forever)
            .unwrap()
            .wait()
            .map(|reply| reply.bytes().to_vec());
        enough.store(true, Ordering::Release);
        assert_eq!(said.unwrap(), mix(&7u64.to_le_bytes()));
    });
}

#[test]
fn more_calls_than_slots_would_block_or_wait_and_all_are_answered() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    for waiting in [Waiting::Adaptive, Waiting::Park] {
        worker.say("close");
        let client = place.client(ClientOptions::default().slots(8).waiting(waiting));
        let route = client.route("work", "keep").unwrap();
        let request = |n: u64| bytes(n + 1, 300);
        let mut open: Vec<_> = (0..8)
            .map(|n| (n, client.request(route).submit(&request(n), Until::Now).unwrap().detach()))
            .collect();
        for until in [Until::Now, Until::Now, Until::after(Duration::from_millis(30))] {
            let refused = client.request(route).submit(&request(99), until).err().expect("no slot is free");
            assert_eq!((refused.status(), refused.may_have_run()), (Status::WouldBlock, false));
        }
        worker.say("open");
        // These wait, and what has ended meanwhile is found later.
        for n in 8..200 {
            open.push((n, client.request(route).submit(&request(n), Until::Forever).unwrap().detach()));
        }
        // Half of them by name, in another order than they were sent.
        for (n, ticket) in open.split_off(100).into_iter().rev() {
            let reply = client.pending(ticket).expect("its outcome is kept").wait().unwrap();
            assert_eq!(reply.bytes().to_vec(), mix(&request(n)));
            drop(reply);
            assert!(client.pending(ticket).is_none(), "an outcome is given out once");
        }
        let mut rest: HashMap<Ticket, u64> = open.into_iter().map(|(n, ticket)| (ticket, n)).collect();
        while let Some(ticket) = client.wait_any(Until::Forever).unwrap() {
            let n = rest.remove(&ticket).expect("one of the rest");
            assert_eq!(client.pending(ticket).unwrap().wait().unwrap().bytes().to_vec(), mix(&request(n)));
        }
        assert!(rest.is_empty(), "{} were lost", rest.len());
    }
}

#[test]
fn a_full_arena_would_block_or_wait_and_nothing_is_overwritten() {
    let place = Place::new();
    let _director = place.director();
    let mut worker = place.worker();
    for waiting in [Waiting::Adaptive, Waiting::Park] {
        worker.say("close");
        let options =
            ClientOptions::default().arenas(64 << 10, 64 << 10).reply_capacity(4096).waiting(waiting);
        let client = place.client(options);
        let route = client.route("work", "keep").unwrap();
        let request = |n: u64| bytes(n + 1, 10_000);
        let draft = || client.request(route).reply_capacity(10_000);
        let mut open = Vec::new();
        let refused = loop {
            match draft().submit(&request(open.len() as u64), Until::Now) {
                Ok(pending) => open.push((open.len() as u64, pending)),
                Err(error) => break error,
            }
        };
        assert_eq!((refused.status(), refused.may_have_run()), (Status::WouldBlock, false), "{refused}");
        assert!((4..=6).contains(&open.len()), "{} of 10,000 bytes in 65,536", open.len());
        let refused = client.request(route).loan(30_000, Until::Now).err().expect("no room");
        assert_eq!(refused.status(), Status::WouldBlock);
        worker.say("open");
        let began = Instant::now();
        for n in open.len() as u64..60 {
            open.push((n, draft().submit(&request(n), Until::Forever).unwrap()));
        }
        // Room for one that takes the place of several.
        let mut loan = client.request(route).loan(50_000, Until::Forever).unwrap();
        loan.copy_from_slice(&bytes(1000, 50_000));
        loan.shrink(4000);
        let large = loan.submit(Until::Forever).unwrap();
        assert_eq!(large.wait().unwrap().bytes().to_vec(), mix(&bytes(1000, 50_000)[..4000]));
        for (n, pending) in open {
            assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(&request(n)));
        }
        assert!(began.elapsed() < Duration::from_millis(900), "it slept with room: {:?}", began.elapsed());
    }
}

#[test]
fn a_loan_that_could_not_be_sent_gives_its_room_back() {
    let place = Place::new();
    let _director = place.director();
    let _worker = place.worker();
    let client = place.client(ClientOptions::default().arenas(64 << 10, 16 << 10));
    let (keep, echo) = (client.route("work", "keep").unwrap(), client.route("work", "echo").unwrap());
    let _all_of_the_reply_arena =
        client.request(keep).reply_capacity(14_000).submit(b"held", Until::Now).unwrap();
    for _ in 0..50 {
        let loan =
            client.request(echo).reply_capacity(14_000).loan(20_000, Until::Now).expect("room for a loan");
        let refused = loan.submit(Until::Now).err().expect("no room for the reply");
        assert_eq!(refused.status(), Status::WouldBlock);
    }
    drop(client.request(echo).loan(60_000, Until::Now).expect("all of the arena"));
}

#[test]
fn replies_keep_their_content_while_thousands_of_calls_run() {
    let place = Place::new();
    let _director = place.director();
    let _worker = place.worker();
    let client = place.client(ClientOptions::default().slots(16).arenas(1 << 20, 1 << 20));
    let route = client.route("work", "mix").unwrap();
    let sizes = [10usize, 64, 65, 500, 4096, 5000, 60_000, 200_000];
    let held: Vec<_> = sizes
        .iter()
        .map(|&len| {
            let draft = client.request(route).reply_capacity(len);
            draft.submit(&bytes(len as u64, len), Until::Forever).unwrap().wait().unwrap()
        })
        .collect();
    for n in 0..5000u64 {
        let request = bytes(n, 100 + (n % 3900) as usize);
        assert_eq!(client.call(route, &request).unwrap().bytes().to_vec(), mix(&request));
    }
    for (reply, len) in held.iter().zip(sizes) {
        assert_eq!(reply.bytes().to_vec(), mix(&bytes(len as u64, len)));
    }
    // With all slots held nothing can ever come: that is said at once.
    let more: Vec<_> = (0..10).map_while(|n| client.call(route, &bytes(n, 100)).ok()).collect();
    assert_eq!(more.len(), 10, "replies whose slots are not in use hold none");
    let refused = client.call(route, &[]).err().expect("all slots are held");
    assert_eq!(refused.status(), Status::WouldBlock);
    drop((held, more));
    client.call(route, &[]).unwrap();
}

#[test]
fn every_size_goes_and_comes_whole() {
    let place = Place::new();
    let _director = place.director();
    let _worker = place.worker();
    let client = place.client(ClientOptions::default());
    let (mix_route, fill) = (client.route("work", "mix").unwrap(), client.route("work", "fill").unwrap());
    let large = [4095, 4096, 4097, 64 << 10, 1 << 20, 16 << 20];
    for len in (0..=200).chain(large) {
        for traced in [false, true] {
            let request = bytes(len as u64 + 1, len);
            let draft = |route| {
                let draft = client.request(route).reply_capacity(len);
                if traced { draft.traced() } else { draft }
            };
            let reply = draft(mix_route).submit(&request, Until::Forever).unwrap().wait().unwrap();
            assert_eq!(reply.bytes().to_vec(), mix(&request), "{len} bytes");
            match (traced, reply.hops()) {
                (false, hops) => assert_eq!(hops, None),
                (true, None) => panic!("{len} bytes: no hops"),
                (true, Some(h)) => assert!(
                    [h.taken_ns, h.pushed_ns, h.began_ns, h.replied_ns, h.received_ns].is_sorted(),
                    "{len} bytes: {h:?}"
                ),
            }
            drop(reply);
            // The same built in place, on both sides.
            let mut loan = draft(mix_route).loan(len + 100, Until::Forever).unwrap();
            loan[..len].copy_from_slice(&request);
            loan.shrink(len);
            assert_eq!(loan.submit(Until::Forever).unwrap().wait().unwrap().bytes().to_vec(), mix(&request));
            let asked =
                draft(fill).submit(&(len as u64).to_le_bytes(), Until::Forever).unwrap().wait().unwrap();
            assert_eq!(asked.bytes().to_vec(), bytes(len as u64, len), "{len} bytes in place");
        }
    }
}

#[test]
fn plain_values_are_called_with() {
    let place = Place::new();
    let _director = place.director();
    let _worker = place.worker();
    let client = place.client(ClientOptions::default());
    let route = client.route("work", "echo").unwrap();
    let value = [1u64, u64::MAX, 42, 0, 7, 8, 9, 10, 11, 12];
    assert_eq!(client.call_as::<[u64; 10], [u64; 10]>(route, &value).unwrap(), value);
    assert_eq!(client.call_as::<u8, u8>(route, &200).unwrap(), 200);
    let wrong = client.call_as::<u64, u32>(route, &5).unwrap_err();
    assert_eq!((wrong.status(), wrong.may_have_run()), (Status::Fault, true));
    assert!(wrong.to_string().contains("8 bytes, not 4"), "{wrong}");
}

#[test]
fn a_worker_may_keep_as_many_calls_as_its_share_allows() {
    let place = Place::new();
    let _director = place.role("director").with("share_max", 48).ready();
    let mut worker = place.worker();
    for waiting in [Waiting::Adaptive, Waiting::Park] {
        worker.say("close");
        let client = place.client(ClientOptions::default().waiting(waiting));
        let (keep, mix_route) = (client.route("work", "keep").unwrap(), client.route("work", "mix").unwrap());
        let began = Instant::now();
        let kept: Vec<_> = (0..47).map(|_| client.request(keep).submit(b"k", Until::Now).unwrap()).collect();
        for n in 0..100u64 {
            assert_eq!(
                client.call(mix_route, &n.to_le_bytes()).unwrap().bytes().to_vec(),
                mix(&n.to_le_bytes())
            );
        }
        assert!(began.elapsed() < Duration::from_millis(900), "the director slept: {:?}", began.elapsed());
        eventually("all are kept", || place.inspect().workers[0].in_flight == 47);
        worker.say("open");
        for pending in kept {
            assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(b"k"));
        }
    }
}

#[test]
fn no_call_is_put_behind_one_that_is_known_to_be_long() {
    let place = Place::new();
    let _director = place.director();
    let mut workers = [place.worker(), place.worker()];
    let client = place.client(ClientOptions::default());
    let (gate, mix_route) = (client.route("work", "gate").unwrap(), client.route("work", "mix").unwrap());
    let submit = |n: u64| client.request(mix_route).submit(&n.to_le_bytes(), Until::Now).unwrap();
    let rounds = |count: u64| {
        for _ in 0..count {
            let open: Vec<_> = (0..40).map(submit).collect();
            for (n, pending) in open.into_iter().enumerate() {
                assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(&(n as u64).to_le_bytes()));
            }
        }
    };
    // Their shares grow, since these are short.
    rounds(500);
    let long = client.request(gate).submit(b"long", Until::Now).unwrap();
    eventually("it runs", || workers.iter().any(|w| !w.heard().is_empty()));
    // Longer than a short call takes, so from now on the director knows it.
    std::thread::sleep(Duration::from_millis(5));
    let behind_ms = {
        let began = Instant::now();
        // One may stand behind it: k - 1, and k is 2 again.
        let mut open: Vec<_> = (0..40).map(submit).collect();
        let until = Until::after(Duration::from_secs(1));
        open.retain_mut(|pending| pending.wait_until(until).is_none());
        assert!(open.len() <= 1, "{} stand behind it", open.len());
        workers.iter_mut().for_each(|w| w.say("open"));
        for pending in open {
            pending.wait().unwrap();
        }
        began.elapsed().as_millis()
    };
    println!("40 calls beside a long one: {behind_ms} ms with the one behind it");
    assert_eq!(long.wait().unwrap().bytes().to_vec(), mix(b"long"));
}

#[test]
fn a_bus_within_one_program_serves_many_threads() {
    use trine::{Director, DirectorOptions, WorkerOptions};
    let place = Place::new();
    let director = Director::new(&place.bus, DirectorOptions::default()).unwrap().spawn().unwrap();
    let workers: Vec<_> = (0..3).map(|_| place.bus.worker(WorkerOptions::default()).unwrap()).collect();
    workers.iter().for_each(|w| assert_eq!(w.provide("work", &["mix"]).unwrap(), 0));
    let stoppers: Vec<_> = workers.iter().map(|w| w.stopper()).collect();
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(move || {
                worker.serve(|request| {
                    let bytes = request.bytes().to_vec();
                    request.reply(&mix(&bytes))
                })
            });
        }
        let clients: Vec<_> = (0..4u64)
            .map(|thread| {
                let client = place.client(ClientOptions::default());
                scope.spawn(move || {
                    let route = client.route("work", "mix").unwrap();
                    for round in 0..200u64 {
                        let request =
                            |n: u64| bytes(thread << 32 | round << 8 | n, 1 + (n * 37 % 500) as usize);
                        let send = |n| client.request(route).submit(&request(n), Until::Forever).unwrap();
                        let open: Vec<_> = (0..32).map(send).collect();
                        for (n, pending) in open.into_iter().enumerate().rev() {
                            assert_eq!(pending.wait().unwrap().bytes().to_vec(), mix(&request(n as u64)));
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|c| c.join()).collect();
        stoppers.iter().for_each(|s| s.stop());
        ended.into_iter().for_each(|e| e.unwrap());
    });
    director.stop().unwrap();
}

#[test]
fn a_call_that_is_only_posted_waits_for_the_one_slot_there_is() {
    let place = Place::new();
    let _director = place.director();
    let _worker = place.worker();
    let client = place.client(ClientOptions::default().slots(1));
    let route = client.route("work", "mix").unwrap();
    for n in 0..20_000u64 {
        client.request(route).post(&n.to_le_bytes(), Until::Forever).expect("its slot comes back");
    }
}
