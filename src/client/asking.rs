//! What a client asks a director for: where a route leads, and which key a name has.
//!
//! Answers come in the order of the questions. A question may be given up before its answer comes; so that a late answer
//! is not taken for the next question's, one about a route names the route, and those about keys are counted.

use std::io;

use crate::access::Domain;
use crate::control::greeting::unexpected;
use crate::control::message::{FromDirector, ToDirector};
use crate::control::name::Name;
use crate::control::socket::Channel;
use crate::error::{Error, Status};
use crate::resource::Key;
use crate::waiting::now_ns;

/// A route as the program sees it: its number is its place in the client's list.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RouteName {
    pub service: Name,
    pub operation: Name,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is open.
    Open,
    /// To a domain that may not see this session.
    Elsewhere(Domain),
}

/// Tells a director what a route's number means. Answers that were given up may come first.
pub fn ask_route(
    channel: &Channel,
    number: u32,
    name: &RouteName,
    late_keys: &mut u32,
    within_ns: u64,
) -> Result<Asked, Error> {
    tell_route(channel, number, name).map_err(Error::io("asking for a route"))?;
    hear_of_route(channel, number, late_keys, within_ns)
}

/// Asks, and does not wait. Many questions may be asked before the first answer is heard.
pub fn tell_route(channel: &Channel, number: u32, name: &RouteName) -> io::Result<()> {
    let RouteName { service, operation } = name.clone();
    channel.send_message(&ToDirector::OpenRoute { route: number, service, operation }, &[])
}

/// What is answered about a route that was asked for. Answers to what was asked before may come first.
pub fn hear_of_route(
    channel: &Channel,
    number: u32,
    late_keys: &mut u32,
    within_ns: u64,
) -> Result<Asked, Error> {
    let until_ns = now_ns() + within_ns;
    loop {
        match channel.answer(until_ns.saturating_sub(now_ns()).max(1))? {
            (FromDirector::RouteOpened { route, .. }, _) if route != number => {}
            (FromDirector::RouteElsewhere { route, .. }, _) if route != number => {}
            (FromDirector::KeyNamed { .. }, _) if *late_keys > 0 => *late_keys -= 1,
            (FromDirector::RouteElsewhere { domain, .. }, _) => return Ok(Asked::Elsewhere(domain)),
            (FromDirector::RouteOpened { status: Status::Ok, .. }, _) => return Ok(Asked::Open),
            (FromDirector::RouteOpened { status, message, .. }, _) => {
                return Err(Error::Refused { status, message });
            }
            _ => return Err(unexpected()),
        }
    }
}

/// Asks for the key of a name. Answers that were given up may come first.
pub fn ask_key(channel: &Channel, name: &Name, late_keys: &mut u32, within_ns: u64) -> Result<Key, Error> {
    let ask = ToDirector::NameKey { name: name.clone() };
    channel.send_message(&ask, &[]).map_err(Error::io("asking for a key"))?;
    let until_ns = now_ns() + within_ns;
    *late_keys += 1;
    loop {
        match channel.answer(until_ns.saturating_sub(now_ns()).max(1))? {
            (FromDirector::RouteOpened { .. } | FromDirector::RouteElsewhere { .. }, _) => {}
            (FromDirector::KeyNamed { status, word }, _) => {
                *late_keys -= 1;
                match status {
                    _ if *late_keys > 0 => {}
                    Status::Ok => return Ok(Key::from_word(word, true)),
                    _ => return Err(Error::Refused { status, message: status.text().into() }),
                }
            }
            _ => return Err(unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::greeting::{ANSWER_NS, is_late};

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_questions() {
        let (client, director) = Channel::pair().unwrap();
        let name = |name| Name::new("name", name).unwrap();
        let route = RouteName { service: name("service"), operation: name("operation") };
        let answer = |route, status| {
            let answer = FromDirector::RouteOpened { route, status, message: String::new() };
            director.send_message(&answer, &[]).unwrap();
        };
        answer(4, Status::Ok);
        answer(5, Status::NoSuchService);
        director.send_message(&FromDirector::KeyNamed { status: Status::Ok, word: 1 }, &[]).unwrap();
        let mut late_keys = 1;
        let asked = ask_route(&client, 5, &route, &mut late_keys, ANSWER_NS);
        assert!(matches!(asked, Err(Error::Refused { status: Status::NoSuchService, .. })), "{asked:?}");
        answer(5, Status::NoSuchService);
        answer(6, Status::Ok);
        ask_route(&client, 6, &route, &mut late_keys, ANSWER_NS).unwrap();
        assert_eq!(late_keys, 0);
    }

    #[test]
    fn a_late_answer_about_one_key_is_not_taken_for_anothers() {
        let (client, director) = Channel::pair().unwrap();
        let name = |name| Name::new("key", name).unwrap();
        let answer = |status, word| {
            director.send_message(&FromDirector::KeyNamed { status, word }, &[]).unwrap();
        };
        let mut late_keys = 0;
        for given_up in ["one", "two"] {
            let asked = ask_key(&client, &name(given_up), &mut late_keys, 1);
            assert!(asked.as_ref().is_err_and(is_late), "{asked:?}");
        }
        answer(Status::Ok, 11);
        answer(Status::BadResource, 0);
        let elsewhere = FromDirector::RouteOpened { route: 1, status: Status::Ok, message: String::new() };
        director.send_message(&elsewhere, &[]).unwrap();
        answer(Status::Ok, 33);
        let asked = ask_key(&client, &name("three"), &mut late_keys, ANSWER_NS).unwrap();
        assert_eq!((asked, late_keys), (Key::from_word(33, true), 0));
    }
}
