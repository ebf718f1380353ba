//! A client's state: its sessions, and which of them a call goes to.
//!
//! ```text
//! session   the one that calls go to ◄──► others   those of other trust domains
//! old       those whose director is gone, as long as an outcome is asked for or a reply is held
//! ```

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::asking::{Asked, RouteName};
use super::handle::{Route, Ticket};
use super::look::{About, Look};
use super::options::ClientOptions;
use super::session::{Session, Stashed};
use crate::access::Domain;
use crate::bus::Bus;
use crate::control::name::Name;
use crate::core::{Os, block_on};
use crate::error::{CallError, Error, Status};
use crate::layout::SessionShape;
use crate::limits;
use crate::resource::Key;
use crate::waiting::{Armed, Until, Waiter, coarse_ns, now_ns};

/// How long `close` waits for one-way calls to be taken over by their workers.
const CLOSE_NS: u64 = 1_000_000_000;

/// How long a session's slots may be held by workers that don't answer, before it is left for a new one.
const CLOGGED_NS: u64 = 1_000_000_000;

/// Longest pause between two questions whether a service is back.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// A client's state. Borrowed for the length of one operation; never across a call of the program's own code.
pub(super) struct Inner {
    pub(super) bus: Bus,
    pub(super) options: ClientOptions,
    pub(super) shape: SessionShape,
    pub(super) waiter: Waiter,
    /// The one that calls go to.
    pub(super) session: Session,
    /// Those of other trust domains: a session is seen by the workers of one. Whichever is needed changes places with
    /// the one that calls go to.
    pub(super) others: Vec<Session>,
    /// Those whose director is gone, as long as somebody may ask for an outcome or holds a reply.
    pub(super) old: Vec<Session>,
    /// The next session's number.
    pub(super) next_session: u16,
    pub(super) routes: Vec<RouteName>,
    pub(super) numbers: HashMap<RouteName, u32>,
    pub(super) keys: HashMap<Name, Key>,
    /// When it was last looked whether the director is there: over all looks, since who only polls has none that is long.
    pub(super) checked_ns: u64,
}

impl Inner {
    pub fn route(&mut self, name: RouteName) -> Result<Route, Error> {
        self.attach(u64::MAX).map_err(refused)?;
        if let Some(&number) = self.numbers.get(&name) {
            return Ok(Route(number));
        }
        let number = self.routes.len() as u32;
        if number >= limits::ROUTES_MAX {
            let bounds = format!("up to {}", limits::ROUTES_MAX);
            return Err(Error::Option { what: "the number of routes", value: u64::from(number), bounds });
        }
        let opened = self.open_somewhere(number, &name);
        if !matches!(opened, Err(Error::Refused { .. })) {
            // Also where no answer came: the number is this name's, whatever the director has made of it.
            self.routes.push(name.clone());
            self.numbers.insert(name, number);
        }
        opened.map(|()| Route(number))
    }

    /// Makes sure that there is a director, as far as is known, and that it knows the route.
    #[inline]
    pub fn prepare(&mut self, route: Route, until_ns: u64) -> Result<(), CallError> {
        if self.session.open_routes.get(route.0 as usize) != Some(&true) {
            self.select_for(route);
        }
        if !self.session.is_attached() {
            self.attach(until_ns)?;
        }
        let is_used_up = self.session.core.is_used_up() && self.session.core.open() == 0;
        if is_used_up || self.session.is_left() {
            self.begin_anew()?;
        }
        if self.session.core.is_clogged() {
            self.leave_clogged(until_ns)?;
        } else {
            self.session.clogged_ns = 0;
        }
        if self.session.open_routes.get(route.0 as usize) == Some(&true) {
            return Ok(());
        }
        let Some(name) = self.routes.get(route.0 as usize).cloned() else {
            return Err(CallError::not_sent(Status::NoSuchService, "the route is another client's"));
        };
        self.open_again(route.0, &name, until_ns)
    }

    /// Makes the session current in which a route is open, if there is one.
    fn select_for(&mut self, route: Route) {
        let open = |s: &&mut Session| s.open_routes.get(route.0 as usize) == Some(&true);
        if let Some(other) = self.others.iter_mut().find(open) {
            std::mem::swap(&mut self.session, other);
        }
    }

    /// Makes the session of this number current. Returns whether it is one that calls can go to.
    pub fn select(&mut self, number: u16) -> bool {
        if self.session.number == number {
            return true;
        }
        let other = self.others.iter_mut().find(|s| s.number == number);
        other.map(|other| std::mem::swap(&mut self.session, other)).is_some()
    }

    /// Opens a route in the session of the domain that it leads to, which is current then.
    fn open_somewhere(&mut self, number: u32, name: &RouteName) -> Result<(), Error> {
        // Who provides it may change while it is asked for; not for ever.
        for _ in 0..4 {
            match self.session.open_route(number, name)? {
                Asked::Open => return Ok(()),
                Asked::Elsewhere(domain) => self.enter(domain)?,
            }
        }
        let message = "its workers change from one trust domain to another all the time".into();
        Err(Error::Refused { status: Status::Busy, message })
    }

    /// Makes the session of a domain current, and opens one if there is none.
    fn enter(&mut self, domain: Domain) -> Result<(), Error> {
        if let Some(other) = self.others.iter_mut().find(|s| s.domain == domain) {
            std::mem::swap(&mut self.session, other);
            return self.attach(u64::MAX).map_err(refused);
        }
        let (number, gone_after_ns) = (self.next_session, self.options.gone_after_ns());
        let session =
            Session::attach(&self.bus, self.shape, number, Some(domain), gone_after_ns, &self.waiter)?;
        self.next_session = number.wrapping_add(1);
        self.others.push(std::mem::replace(&mut self.session, session));
        Ok(())
    }

    /// Opens a route that an earlier director knew. Its workers may come back later than this client.
    fn open_again(&mut self, number: u32, name: &RouteName, until_ns: u64) -> Result<(), CallError> {
        let gone_ns = now_ns().saturating_add(self.options.director_gone.as_nanos() as u64);
        let mut pause = Pause::default();
        self.waiter.take_interrupted();
        loop {
            let error = match self.open_somewhere(number, name) {
                Ok(()) => return Ok(()),
                Err(error @ Error::Refused { .. }) if is_unknown(error.status()) => error,
                Err(error) => return Err(not_sent(error)),
            };
            let now_ns = now_ns();
            if now_ns >= gone_ns {
                return Err(not_sent(error));
            }
            if now_ns >= until_ns {
                return Err(CallError::not_sent(Status::WouldBlock, "its workers are not back yet"));
            }
            pause.sleep(&mut self.waiter, until_ns.min(gone_ns) - now_ns);
            if self.waiter.take_interrupted() {
                return Err(not_sent(Error::Interrupted));
            }
        }
    }

    /// Makes sure that there is a director, waiting for one if need be.
    pub fn attach(&mut self, until_ns: u64) -> Result<(), CallError> {
        self.session.check_director();
        if self.session.is_attached() {
            return Ok(());
        }
        self.session.demand_director(now_ns(), &self.routes);
        let found = self.look_until(About::All, until_ns, |session, _, now_ns| match session.is_attached() {
            true => Some(true),
            false => (session.is_unknown() || session.is_given_up(now_ns)).then_some(false),
        });
        match found {
            Some(true) => Ok(()),
            None if self.waiter.take_interrupted() => Err(not_sent(Error::Interrupted)),
            None => Err(CallError::not_sent(Status::WouldBlock, "there is no director now")),
            Some(false) if self.session.is_unknown() => self.begin_anew(),
            Some(false) => {
                let after_s = self.options.director_gone.as_secs_f64();
                let message = format!("no director for {after_s} s; start one with `trine director`");
                Err(CallError::not_sent(Status::DirectorGone, message))
            }
        }
    }

    /// Opens a new session, where a director does not know the one there was. That is kept as long as anybody may
    /// ask for one of its outcomes.
    fn begin_anew(&mut self) -> Result<(), CallError> {
        let (number, gone_after_ns) = (self.next_session, self.options.gone_after_ns());
        let domain = Some(self.session.domain);
        let session = Session::attach(&self.bus, self.shape, number, domain, gone_after_ns, &self.waiter);
        let session = session.map_err(not_sent)?;
        self.next_session = number.wrapping_add(1);
        self.waiter.remove_doorbell(self.session.doorbell());
        let mut old = std::mem::replace(&mut self.session, session);
        old.leave();
        self.old.push(old);
        self.old.retain(Session::is_in_use);
        Ok(())
    }

    /// A session most of whose slots are held by workers that don't answer is left for a new one, when it has been so
    /// for a while: they may be about to answer. What there is still room for goes on meanwhile.
    fn leave_clogged(&mut self, until_ns: u64) -> Result<(), CallError> {
        let now_ns = now_ns();
        if self.session.clogged_ns == 0 {
            self.session.clogged_ns = now_ns;
        }
        let leave_ns = self.session.clogged_ns + CLOGGED_NS;
        self.look_until(About::All, until_ns.min(leave_ns), |session, _, now_ns| {
            session.reclaim(now_ns);
            session.core.has_free().then_some(())
        });
        let is_over = crate::waiting::now_ns() >= leave_ns;
        if is_over && self.session.core.is_clogged() {
            // Without a new one, what is left of this one has to do.
            match self.begin_anew() {
                Err(error) if !self.session.core.has_free() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes a slot, waiting for one if need be.
    #[inline]
    pub fn reserve(&mut self, until_ns: u64) -> Result<u32, CallError> {
        match self.session.reserve() {
            Some(slot) => Ok(slot),
            None => self.reserve_slowly(until_ns),
        }
    }

    /// Takes so many slots at once, waiting for them if need be.
    pub fn reserve_many(&mut self, count: usize, until_ns: u64) -> Result<Vec<u32>, CallError> {
        match self.session.reserve_many(count) {
            Some(slots) => Ok(slots),
            None => self.wait_for_slots(until_ns, |session| session.reserve_many(count)),
        }
    }

    fn reserve_slowly(&mut self, until_ns: u64) -> Result<u32, CallError> {
        self.wait_for_slots(until_ns, Session::reserve)
    }

    fn wait_for_slots<T>(
        &mut self,
        until_ns: u64,
        take: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, CallError> {
        let all = match self.make_room(until_ns, take) {
            Ok(taken) => return Ok(taken),
            Err(Shortage::Held) => "all slots are held by replies that have not been dropped",
            Err(Shortage::Clogged) => "all slots are held by workers that don't answer",
            Err(Shortage::Now) => "all slots are in use",
            Err(Shortage::Lost) => return Err(lost()),
            Err(Shortage::Interrupted) => return Err(not_sent(Error::Interrupted)),
        };
        Err(CallError::not_sent(Status::WouldBlock, all))
    }

    /// Takes something out of an arena, waiting for room if need be.
    pub fn allocate<T>(
        &mut self,
        until_ns: u64,
        mut take: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, CallError> {
        if let Some(taken) = take(&mut self.session) {
            return Ok(taken);
        }
        let full = match self.make_room(until_ns, take) {
            Ok(taken) => return Ok(taken),
            Err(Shortage::Held) => "the arena is full of what this program holds",
            Err(Shortage::Clogged) => "the arena is full of what workers hold that don't answer",
            Err(Shortage::Now) => "the arena is full",
            Err(Shortage::Lost) => return Err(lost()),
            Err(Shortage::Interrupted) => return Err(not_sent(Error::Interrupted)),
        };
        Err(CallError::not_sent(Status::WouldBlock, full))
    }

    /// Takes what there is too little of, as soon as there is enough. Calls that have ended and whose outcomes nobody
    /// has asked for yet make room: unless this caller did not want to wait, who may well ask for one next.
    fn make_room<T>(
        &mut self,
        until_ns: u64,
        mut take: impl FnMut(&mut Session) -> Option<T>,
    ) -> Result<T, Shortage> {
        let clogged_ns = now_ns() + CLOGGED_NS;
        let taken = self.look_until(About::All, until_ns, |session, _, now_ns| {
            session.reclaim(now_ns);
            loop {
                if let Some(taken) = take(session) {
                    return Some(Ok(taken));
                }
                if until_ns == 0 || !session.stash_one(now_ns) {
                    break;
                }
            }
            match (session.core.open(), session.core.quarantined()) {
                (0, 0) => {
                    // One-way calls have no outcome to stash: the look for one may have freed the last of them.
                    session.reclaim(now_ns);
                    Some(take(session).ok_or(Shortage::Held))
                }
                (0, _) if now_ns >= clogged_ns => {
                    session.is_spent = true;
                    Some(Err(Shortage::Clogged))
                }
                _ => None,
            }
        });
        match taken {
            Some(taken) => taken,
            None if self.waiter.take_interrupted() => Err(Shortage::Interrupted),
            None if self.session.is_attached() => Err(Shortage::Now),
            None => Err(Shortage::Lost),
        }
    }

    /// Looks at the current session, or at all, until there is what is looked for, or until the time has come. Each look
    /// brings up to date what it is about. Whatever is looked at, all sessions go on to the next director.
    pub(super) fn look_until<T>(
        &mut self,
        about: About,
        until_ns: u64,
        find: impl FnMut(&mut Session, &mut [Session], u64) -> Option<T>,
    ) -> Option<T> {
        self.waiter.take_interrupted();
        let checked_ns = self.checked_ns;
        let (session, others, routes) = (&mut self.session, &mut self.others[..], &self.routes[..]);
        let mut look = Look {
            session,
            others,
            routes,
            about,
            find,
            until_ns,
            checked_ns,
            check: false,
            interrupted: false,
        };
        let found = block_on(&mut look, &mut self.waiter);
        self.checked_ns = look.checked_ns;
        self.watch_arrival();
        found
    }

    /// Sleeps see the death of a director that a session has just come back to.
    #[inline]
    fn watch_arrival(&mut self) {
        for session in std::iter::once(&mut self.session).chain(&mut self.others) {
            if let Some(channel) = session.take_arrival()
                && let Err(error) = self.waiter.add_socket(channel, 0)
            {
                tracing::warn!(%error, "the director's death will be noticed late");
            }
        }
    }

    /// Waits for one call. `None`: not in time; or its outcome was given out already, then at once.
    #[inline]
    pub fn wait(&mut self, ticket: Ticket, until_ns: u64) -> Option<Ended> {
        let name = ticket.name();
        if !self.select(ticket.session()) {
            return self.find_in_old(ticket);
        }
        if !self.session.stash.is_empty()
            && let Some(stashed) = self.session.stash.remove(&name)
        {
            return Some(Ended::Stashed(stashed));
        }
        // With many calls in flight the next has ended mostly: then there is nothing to wait with.
        if self.session.core.is_answered(name) {
            let now_ns = self.waiter.now_ns();
            if let Some(slot) = self.session.core.take_ended(name, now_ns, &mut self.session.bells) {
                self.waiter.take_interrupted();
                return Some(Ended::Slot(slot));
            }
        }
        let slot = self.look_until(About::Call(name), until_ns, |session, _, now_ns| {
            match session.core.take_ended(name, now_ns, &mut session.bells) {
                Some(slot) => Some(Some(slot)),
                None => (!session.core.is_known(name)).then_some(None),
            }
        });
        slot.flatten().map(Ended::Slot)
    }

    /// The outcome of a call whose director is gone: it has ended.
    fn find_in_old(&mut self, ticket: Ticket) -> Option<Ended> {
        let name = ticket.name();
        let session = self.session_of(ticket)?;
        if let Some(stashed) = session.stash.remove(&name) {
            return Some(Ended::Stashed(stashed));
        }
        session.core.take_ended(name, 0, &mut session.bells).map(Ended::Slot)
    }

    /// The session of a ticket.
    pub fn session_of(&mut self, ticket: Ticket) -> Option<&mut Session> {
        self.session_numbered(ticket.session())
    }

    /// A session that is still kept.
    pub fn session_numbered(&mut self, number: u16) -> Option<&mut Session> {
        if self.session.number == number {
            return Some(&mut self.session);
        }
        self.others.iter_mut().chain(&mut self.old).find(|s| s.number == number)
    }

    pub fn knows(&self, ticket: Ticket) -> bool {
        let mut sessions = std::iter::once(&self.session).chain(&self.others).chain(&self.old);
        let session = sessions.find(|s| s.number == ticket.session());
        session.is_some_and(|s| s.core.is_known(ticket.name()) || s.stash.contains_key(&ticket.name()))
    }

    pub fn arm(&mut self) -> Result<Armed, Error> {
        for session in std::iter::once(&mut self.session).chain(&mut self.others) {
            // A sleep of its own, though the last was never taken back: its bell may have been rung already.
            session.awake();
            session.core.park();
        }
        if self.wait_any(Until::Now).is_some() {
            std::iter::once(&mut self.session).chain(&mut self.others).for_each(Session::awake);
            return Ok(Armed::Ready);
        }
        let wake_ns = |session: &Session| {
            // Who has nothing under way is in no hurry to find a director.
            let look_at_ns = if session.core.open() == 0 { u64::MAX } else { session.wake_at_ns() };
            session.core.next_deadline_ns().min(look_at_ns)
        };
        let wake_ns = std::iter::once(&self.session).chain(&self.others).map(wake_ns).min();
        self.waiter.set_alarm(wake_ns.unwrap_or(u64::MAX))?;
        Ok(Armed::Sleep)
    }

    pub fn disarm(&mut self) {
        std::iter::once(&mut self.session).chain(&mut self.others).for_each(Session::awake);
        self.waiter.slept_elsewhere();
        for session in std::iter::once(&mut self.session).chain(&mut self.others) {
            session.check_director();
            session.look_for_director(now_ns(), &self.routes);
        }
        self.watch_arrival();
    }

    pub fn wait_any(&mut self, until: Until) -> Option<Ticket> {
        let sessions = std::iter::once(&mut self.session).chain(&mut self.others).chain(&mut self.old);
        for session in sessions {
            let ended = match session.stash.keys().next() {
                Some(&name) => Some(name),
                None if !session.is_unknown() => None,
                None => session.core.any_ended(0, &mut session.bells),
            };
            if let Some(name) = ended {
                return Some(Ticket::new(session.number, name));
            }
        }
        let found = self.look_until(About::Everywhere, until.ns(), |session, others, now_ns| {
            let mut open = 0;
            for session in std::iter::once(session).chain(others) {
                if let Some(name) = session.core.any_ended(now_ns, &mut session.bells) {
                    return Some(Some(Ticket::new(session.number, name)));
                }
                open += session.core.open();
            }
            (open == 0).then_some(None)
        });
        found.flatten()
    }

    pub fn finish_one_way(&mut self) {
        let one_way = |session: &Session| session.core.one_way();
        if std::iter::once(&self.session).chain(&self.others).map(one_way).sum::<u32>() > 0 {
            self.waiter.ignore_signals();
            let until_ns = now_ns() + CLOSE_NS;
            self.look_until(About::Everywhere, until_ns, |session, others, now_ns| {
                let mut left = 0;
                for session in std::iter::once(session).chain(others) {
                    session.reclaim(now_ns);
                    left += session.core.one_way();
                }
                (left == 0).then_some(())
            });
        }
    }
}

/// A call that has ended.
pub(super) enum Ended {
    /// In this slot, which is held until it is released.
    Slot(u32),
    /// Its outcome and payload; the slot has been another call's since.
    Stashed(Box<Stashed>),
}

/// Waiting for somebody who will be: there is nothing to wait on yet.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Pause(Duration::from_millis(1))
    }
}

impl Pause {
    /// Sleeps so long at most; each time longer.
    fn sleep(&mut self, waiter: &mut Waiter, most_ns: u64) {
        waiter.pause(self.0.min(Duration::from_nanos(most_ns)).as_nanos() as u64);
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }
}

/// Why there is no room for a call.
enum Shortage {
    /// There is none in time.
    Now,
    /// The program itself holds everything, so there never will be.
    Held,
    /// Workers that don't answer hold it: the next call goes to a new session.
    Clogged,
    /// The director went away, and nothing comes back any more.
    Lost,
    /// A signal ended the wait for it.
    Interrupted,
}

fn lost() -> CallError {
    CallError::not_sent(Status::DirectorGone, "the director went away before the call could be sent")
}

/// Whether nobody provides it, as far as this director knows.
fn is_unknown(status: Status) -> bool {
    matches!(status, Status::NoSuchService | Status::NoSuchOperation)
}

/// What a call could not be sent for, where there is no call.
pub(super) fn refused(e: CallError) -> Error {
    Error::Refused { status: e.status(), message: e.message().to_owned() }
}

/// A call that could not be sent.
pub(super) fn not_sent(error: Error) -> CallError {
    let message = match &error {
        Error::Refused { message, .. } => message.clone(),
        error => error.to_string(),
    };
    CallError::not_sent(error.status(), message)
}

/// On CLOCK_MONOTONIC, from now on.
pub(super) fn deadline_ns(deadline: Option<Instant>) -> u64 {
    match deadline {
        Some(at) => crate::waiting::to_ns(at),
        None => coarse_ns() + limits::DEADLINE_DEFAULT_NS,
    }
}
