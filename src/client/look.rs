//! Looking at a client's sessions until there is what is looked for.

use super::asking::RouteName;
use super::session::Session;
use crate::core::{Party, Turn};

/// How often a client that doesn't sleep looks whether its director is still there.
const CHECK_NS: u64 = 1_000_000;

/// What each look brings up to date: nobody is woken for the deadline of anything else, and woken again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// All calls of the current session.
    All,
    /// One of them.
    Call(u64),
    /// One scatter there.
    Group(u64),
    /// All calls of all sessions.
    Everywhere,
}

/// Looks at sessions until there is what is looked for: a client, as the party that is driven.
pub(super) struct Look<'a, F> {
    pub session: &'a mut Session,
    pub others: &'a mut [Session],
    pub routes: &'a [RouteName],
    pub about: About,
    pub find: F,
    pub until_ns: u64,
    pub checked_ns: u64,
    pub check: bool,
    pub interrupted: bool,
}

impl<F> Look<'_, F> {
    /// Looks after the sessions that nobody waits for: their calls go on to the next director in time.
    fn tend_others(&mut self, now_ns: u64) {
        for other in &mut *self.others {
            if !other.is_attached() && !self.interrupted {
                other.look_for_director(now_ns, self.routes);
            }
        }
    }

    /// The other sessions, if their calls are waited for.
    fn waited_for(&mut self) -> &mut [Session] {
        if self.about == About::Everywhere { self.others } else { &mut [] }
    }
}

impl<T, F: FnMut(&mut Session, &mut [Session], u64) -> Option<T>> Party for Look<'_, F> {
    type Out = Option<T>;

    #[inline]
    fn turn(&mut self, now_ns: u64) -> Turn<Option<T>> {
        if let Some(found) = (self.find)(self.session, self.others, now_ns) {
            return Turn::Done(Some(found));
        }
        if self.check || now_ns.saturating_sub(self.checked_ns) > CHECK_NS {
            (self.check, self.checked_ns) = (false, now_ns);
            self.session.check_director();
            self.others.iter_mut().for_each(Session::check_director);
        }
        if !self.others.is_empty() {
            self.tend_others(now_ns);
        }
        // To look takes a while: whoever was interrupted hears of that first.
        if !self.session.is_attached() && !self.interrupted {
            self.session.look_for_director(now_ns, self.routes);
            // It may have come, or calls may have ended: a last look at what is looked for.
            if let Some(found) = (self.find)(self.session, self.others, now_ns) {
                return Turn::Done(Some(found));
            }
        }
        let lost = self.session.is_unknown() && self.about != About::Everywhere;
        if now_ns >= self.until_ns || self.interrupted || lost {
            return Turn::Done(None);
        }
        Turn::Idle
    }

    fn park(&mut self) {
        self.session.core.park();
        self.waited_for().iter_mut().for_each(|other| other.core.park());
    }

    fn awake(&mut self) {
        self.session.awake();
        self.waited_for().iter_mut().for_each(Session::awake);
        self.check = true;
    }

    fn wake_at_ns(&self) -> u64 {
        let core = &self.session.core;
        let deadline_ns = match self.about {
            About::All | About::Everywhere => core.next_deadline_ns(),
            About::Call(name) => core.deadline_ns(name),
            About::Group(name) => core.group_deadline_ns(name),
        };
        let others_ns = self.others.iter().map(|other| match self.about {
            About::Everywhere => other.wake_at_ns().min(other.core.next_deadline_ns()),
            _ => other.wake_at_ns(),
        });
        let others_ns = others_ns.min().unwrap_or(u64::MAX);
        deadline_ns.min(self.until_ns).min(self.session.wake_at_ns()).min(others_ns)
    }

    fn interrupted(&mut self) {
        self.interrupted = true;
    }
}
