//! What arrives, what does not, and what becomes of descriptors.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::control::message::{FromDirector, ToDirector};

/// A pipe's end to send, and the other end, which tells when all copies of the first are closed.
fn probe() -> (OwnedFd, File) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    (write, read.into())
}

/// Whether all copies of a probe's sent end are closed: reading finds the end. It may be not at once, since a process
/// that another test starts has copies of everything until it executes.
fn is_closed(mut end: &File) -> bool {
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    let ready = nix::poll::poll(&mut fds, 10_000u16).unwrap() == 1;
    ready && end.read(&mut [0]).unwrap() == 0
}

fn opened() -> FromDirector {
    FromDirector::SessionOpened { session: 1, credential: [2, 3] }
}

fn fault<M: std::fmt::Debug>(received: Result<Received<M>, Error>) -> Fault {
    match received.unwrap() {
        Received::Fault(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_arrive_whole_in_order_and_with_their_descriptors() {
    let (a, b) = Channel::pair().unwrap();
    assert!(matches!(b.receive_message::<FromDirector>(), Ok(Received::Nothing)));
    let (sent, _end) = probe();
    let inode = |fd: &OwnedFd| File::from(fd.try_clone().unwrap()).metadata().unwrap().ino();
    a.send_message(&FromDirector::Closing, &[]).unwrap();
    a.send_message(&opened(), &[sent.as_fd()]).unwrap();
    let Ok(Received::Message(FromDirector::Closing, none)) = b.receive_message() else { panic!() };
    assert!(none.is_empty());
    let Ok(Received::Message(message, fds)) = b.receive_message::<FromDirector>() else { panic!() };
    assert_eq!(message, opened());
    assert_eq!(fds.iter().map(inode).collect::<Vec<_>>(), [inode(&sent)]);
    let flags = nix::fcntl::fcntl(&fds[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, nix::libc::FD_CLOEXEC);
    assert!(matches!(b.receive_message::<FromDirector>(), Ok(Received::Nothing)));
}

#[test]
fn descriptors_of_a_faulty_message_are_closed() {
    let (a, b) = Channel::pair().unwrap();
    let mut bytes = Vec::new();
    opened().encode(&mut bytes);
    // None, two, as many as any message may have, one more than there is room for, and many more.
    for count in [0, 2, 4, 5, 6, 100] {
        let (sent, end) = probe();
        a.send(&bytes, &vec![sent.as_fd(); count]).unwrap();
        let fault = fault(b.receive_message::<FromDirector>());
        drop(sent);
        b.close_strays();
        assert!(is_closed(&end), "{count} descriptors: {fault}");
        match count {
            0..=4 => assert!(matches!(fault, Fault::Descriptor { .. }), "{fault}"),
            _ => assert!(matches!(fault, Fault::Message { kind: 131, .. }), "{fault}"),
        }
    }
    let (sent, end) = probe();
    a.send(b"no message", &[sent.as_fd()]).unwrap();
    fault(b.receive_message::<FromDirector>());
    drop(sent);
    drop(b);
    assert!(is_closed(&end));
}

#[test]
fn a_message_that_is_too_long_is_a_fault_with_its_length() {
    let (a, b) = Channel::pair().unwrap();
    let (sent, end) = probe();
    a.send(&[7; MESSAGE_BYTES_MAX + 1], &[sent.as_fd()]).unwrap();
    drop(sent);
    let why = "it is too long";
    let (kind, len) = (0x0707_0707, MESSAGE_BYTES_MAX + 1);
    assert_eq!(fault(b.receive_message::<ToDirector>()), Fault::Message { kind, len, why });
    b.close_strays();
    assert!(is_closed(&end));
    // It is gone as a whole, and what comes after it is a message of its own.
    a.send_message(&ToDirector::Inspect, &[]).unwrap();
    assert!(matches!(b.receive_message(), Ok(Received::Message(ToDirector::Inspect, _))));
}

#[test]
fn a_reset_is_not_the_end() {
    let (a, b) = Channel::pair().unwrap();
    a.send_message(&FromDirector::Left, &[]).unwrap();
    a.send_message(&FromDirector::Closing, &[]).unwrap();
    b.send_message(&ToDirector::Inspect, &[]).unwrap();
    drop(a); // with something unread
    assert_eq!(b.wait_readable(u64::MAX).unwrap(), Waited::Readable);
    assert!(matches!(b.receive_message(), Ok(Received::Message(FromDirector::Left, _))));
    assert!(matches!(b.receive_message(), Ok(Received::Message(FromDirector::Closing, _))));
    for _ in 0..3 {
        assert!(matches!(b.receive_message::<FromDirector>(), Ok(Received::Closed)));
    }
    let error = b.send_message(&ToDirector::Inspect, &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

/// The kernel does say it: else the test above would show nothing.
#[test]
fn the_kernel_says_reset_first() {
    let (a, b) = Channel::pair().unwrap();
    a.send_message(&FromDirector::Left, &[]).unwrap();
    b.send_message(&ToDirector::Inspect, &[]).unwrap();
    drop(a);
    let mut buffer = [0; 64];
    let receive = |buffer: &mut [u8]| nix::sys::socket::recv(b.socket.as_raw_fd(), buffer, MsgFlags::empty());
    assert_eq!(receive(&mut buffer), Err(Errno::ECONNRESET));
    assert_eq!(receive(&mut buffer), Ok(8));
    assert_eq!(receive(&mut buffer), Ok(0));
}

#[test]
fn an_empty_message_is_the_end_and_keeps_no_descriptor() {
    let (a, b) = Channel::pair().unwrap();
    let (sent, end) = probe();
    a.send(&[], &[sent.as_fd()]).unwrap();
    drop(sent);
    assert!(matches!(b.receive_message::<ToDirector>(), Ok(Received::Closed)));
    b.close_strays();
    assert!(is_closed(&end));
}

#[test]
fn a_peer_that_does_not_read_stops_nobody() {
    let (a, _b) = Channel::pair().unwrap();
    let error = (0..1_000_000).find_map(|_| a.send(&[1; 4096], &[]).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn waiting_ends_at_its_time_or_when_something_comes() {
    let (a, b) = Channel::pair().unwrap();
    assert_eq!(b.wait_readable(0).unwrap(), Waited::TimedOut);
    let until_ns = now_ns() + 5_000_000;
    assert_eq!(b.wait_readable(until_ns).unwrap(), Waited::TimedOut);
    assert!(now_ns() >= until_ns);
    a.send_message(&FromDirector::Left, &[]).unwrap();
    assert_eq!(b.wait_readable(0).unwrap(), Waited::Readable);
    assert_eq!(b.wait_readable(u64::MAX).unwrap(), Waited::Readable);
}

#[test]
fn connecting_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let connect = |name| Channel::connect(&at(name));
    assert!(matches!(connect("nothing"), Err(Error::NoDirector { .. })));
    assert!(matches!(connect("no/folder"), Err(Error::NoDirector { .. })));
    fs::write(at("file"), "").unwrap();
    assert!(matches!(connect("file"), Err(Error::NotASocket { .. })));
    assert!(matches!(Channel::connect(folder.path()), Err(Error::NotASocket { .. })));
    let _stream = std::os::unix::net::UnixListener::bind(at("stream")).unwrap();
    assert!(matches!(connect("stream"), Err(Error::NotASocket { .. })));
    drop(Listener::bind(&at("dead")).unwrap());
    assert!(matches!(connect("dead"), Err(Error::NoDirector { .. })));

    let listener = Listener::bind(&at("alive")).unwrap();
    assert!(listener.accept().unwrap().is_none());
    let client = connect("alive").unwrap();
    let server = listener.accept().unwrap().unwrap();
    client.send_message(&ToDirector::Inspect, &[]).unwrap();
    assert!(matches!(server.receive_message(), Ok(Received::Message(ToDirector::Inspect, _))));
    assert!(matches!(server.receive_message::<ToDirector>(), Ok(Received::Nothing)), "it does not block");
    assert!(matches!(Listener::bind(&at("alive")), Err(Error::System { .. })));
}

#[test]
fn a_long_path_is_reached_through_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let deep: PathBuf = folder.path().join("x".repeat(200)).join("y".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("socket");
    let listener = Listener::bind(&path).unwrap();
    let _client = Channel::connect(&path).unwrap();
    assert!(listener.accept().unwrap().is_some());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);

    let long = deep.join("z".repeat(100));
    let error = Listener::bind(&long).unwrap_err();
    assert!(matches!(&error, Error::Path { path, .. } if *path == long), "{error}");
}

/// Where this process has no room for descriptors, that is its own trouble, not its peer's; and those that did find
/// room are closed again. It needs a process of its own, with a low limit.
#[test]
fn no_room_for_descriptors_is_an_error_and_loses_none() {
    const CHILD: &str = "TRINE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let status = Command::new("sh")
            .args(["-c", r#"ulimit -n 40 && exec "$0" "$@""#])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "control::socket::tests::no_room_for_descriptors_is_an_error_and_loses_none"])
            .env(CHILD, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let (a, b) = Channel::pair().unwrap();
    let (sent, end) = probe();
    a.send(b"with three", &[sent.as_fd(); 3]).unwrap();
    drop(sent);
    let mut others: Vec<OwnedFd> = std::iter::from_fn(|| end.as_fd().try_clone_to_owned().ok()).collect();
    others.truncate(others.len() - 2);
    match b.receive(&mut [0; 64]) {
        Ok(Received::Short(10, Error::System { source, .. })) => {
            assert_eq!(source.raw_os_error(), Some(nix::libc::EMFILE));
        }
        other => panic!("{other:?}"),
    }
    b.close_strays();
    assert!(is_closed(&end));
}
