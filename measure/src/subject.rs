//! What is measured: a few processes, the last of which is the client.
//!
//! A program that can be measured beside others prints its subjects as JSON (`… list`). Whoever measures starts the
//! parties of one in their order, each with the options of [`PartyOptions`] and then the arguments that are written here.
//! All but the last say "ready" on stdout; the last prints what it [measured](crate::Measured). Then the others get
//! SIGTERM.
//!
//! [`PartyOptions`]: crate::PartyOptions

use serde::{Deserialize, Serialize};

use crate::party::Wait;

/// On whose CPU a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seat {
    /// The client's.
    Client,
    /// That of whoever stands between: a director, a broker.
    Middle,
    /// The worker's.
    Worker,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Where it runs.
    pub seat: Seat,
    /// The arguments that make the program be it.
    pub arguments: Vec<String>,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What it is called, in tables and plots.
    pub name: String,
    /// Messages of a call, there and back.
    pub messages: u32,
    /// In the order in which they start. The client is last.
    pub parties: Vec<Party>,
    /// How its parties can wait.
    pub waiting: Vec<Wait>,
    /// Longest payload.
    pub bytes_max: usize,
    /// Most calls in flight.
    pub in_flight_max: usize,
}

impl Subject {
    /// Of parties in the order in which they start, each with its arguments in one string.
    pub fn new(name: &str, messages: u32, parties: &[(Seat, &str)]) -> Subject {
        let party = |&(seat, arguments): &(Seat, &str)| Party {
            seat,
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        };
        Subject {
            name: name.to_owned(),
            messages,
            parties: parties.iter().map(party).collect(),
            waiting: vec![Wait::Spin, Wait::Yield],
            bytes_max: usize::MAX,
            in_flight_max: usize::MAX,
        }
    }

    /// With these ways to wait.
    pub fn waiting(mut self, waiting: &[Wait]) -> Subject {
        self.waiting = waiting.to_vec();
        self
    }

    /// With these bounds.
    pub fn bounds(mut self, bytes_max: usize, in_flight_max: usize) -> Subject {
        (self.bytes_max, self.in_flight_max) = (bytes_max, in_flight_max);
        self
    }

    /// Whether it stands for what is asked.
    pub fn can(&self, waiting: Wait, bytes: usize, in_flight: usize) -> bool {
        self.waiting.contains(&waiting) && bytes <= self.bytes_max && in_flight <= self.in_flight_max
    }
}
