//! What the schedules have met: a test that never reaches the rare places proves nothing about them.

/// Something worth meeting. A schedule notes each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Seen {
    Ok,
    WorkerError,
    OneWay,
    Traced,
    NoSuchService,
    NoWorker,
    Busy,
    Cancelled,
    CancelledUnrun,
    DeadlineUnrun,
    DeadlineOfClient,
    NotBegunRetried,
    WorkerDied,
    Verdict,
    DirectorStopped,
    DirectorKilled,
    OutOfOrder,
    AnsweredAfterGivenUp,
    Parked,
    ClientRung,
    WorkerRung,
    ClientRingsDirector,
    WorkerRingsDirector,
    Backlog,
    SessionCold,
    MappingRefused,
    Unmapped,
    SessionForgotten,
    ClosedWithCallsOpen,
    NewSession,
    ClientKilled,
    WorkerKilled,
    KilledAfterStamp,
    WorkerHung,
    WorkerHungForEver,
    WorkerResumed,
    WorkerLeft,
    Withdrawn,
    Replaced,
    StoreBuffers,
    Gentle,
    DirectorRestarted,
    KilledWhileRecovering,
    Answered,
    Fresh,
    InFlight,
    Died,
    Held,
    Unknown,
    NotBegunGivenBack,
    WorkerCameBack,
    CarriedOver,
    WorkerRefused,
    WorkerMissed,
    SessionCameBack,
    SessionRefused,
    MissedADirector,
    DeadAtStart,
    DiedLater,
    Unreadable,
    LedgerForgotten,
    GivenUpOnDirector,
    WorkerEnded,
    LedgerKept,
    Gained,
    Lost,
    HandedOver,
    NeverLost,
    RunsExclusively,
    Overlapped,
    NotHeld,
    Drained,
    RightsAwaited,
    KilledHolding,
    Scattered,
    NoPart,
    PartNotBegun,
    TooManyParts,
    WithdrawnHolding,
    LostAll,
    ScatteredOnLocks,
    WidePart,
    WorkerPaused,
    DirectorPaused,
    ClientPaused,
    StoodStill,
    LeftSilent,
    Classes,
}

/// All of them, in order.
pub const ALL: [Seen; 88] = [
    Seen::Ok,
    Seen::WorkerError,
    Seen::OneWay,
    Seen::Traced,
    Seen::NoSuchService,
    Seen::NoWorker,
    Seen::Busy,
    Seen::Cancelled,
    Seen::CancelledUnrun,
    Seen::DeadlineUnrun,
    Seen::DeadlineOfClient,
    Seen::NotBegunRetried,
    Seen::WorkerDied,
    Seen::Verdict,
    Seen::DirectorStopped,
    Seen::DirectorKilled,
    Seen::OutOfOrder,
    Seen::AnsweredAfterGivenUp,
    Seen::Parked,
    Seen::ClientRung,
    Seen::WorkerRung,
    Seen::ClientRingsDirector,
    Seen::WorkerRingsDirector,
    Seen::Backlog,
    Seen::SessionCold,
    Seen::MappingRefused,
    Seen::Unmapped,
    Seen::SessionForgotten,
    Seen::ClosedWithCallsOpen,
    Seen::NewSession,
    Seen::ClientKilled,
    Seen::WorkerKilled,
    Seen::KilledAfterStamp,
    Seen::WorkerHung,
    Seen::WorkerHungForEver,
    Seen::WorkerResumed,
    Seen::WorkerLeft,
    Seen::Withdrawn,
    Seen::Replaced,
    Seen::StoreBuffers,
    Seen::Gentle,
    Seen::DirectorRestarted,
    Seen::KilledWhileRecovering,
    Seen::Answered,
    Seen::Fresh,
    Seen::InFlight,
    Seen::Died,
    Seen::Held,
    Seen::Unknown,
    Seen::NotBegunGivenBack,
    Seen::WorkerCameBack,
    Seen::CarriedOver,
    Seen::WorkerRefused,
    Seen::WorkerMissed,
    Seen::SessionCameBack,
    Seen::SessionRefused,
    Seen::MissedADirector,
    Seen::DeadAtStart,
    Seen::DiedLater,
    Seen::Unreadable,
    Seen::LedgerForgotten,
    Seen::GivenUpOnDirector,
    Seen::WorkerEnded,
    Seen::LedgerKept,
    Seen::Gained,
    Seen::Lost,
    Seen::HandedOver,
    Seen::NeverLost,
    Seen::RunsExclusively,
    Seen::Overlapped,
    Seen::NotHeld,
    Seen::Drained,
    Seen::RightsAwaited,
    Seen::KilledHolding,
    Seen::Scattered,
    Seen::NoPart,
    Seen::PartNotBegun,
    Seen::TooManyParts,
    Seen::WithdrawnHolding,
    Seen::LostAll,
    Seen::ScatteredOnLocks,
    Seen::WidePart,
    Seen::WorkerPaused,
    Seen::DirectorPaused,
    Seen::ClientPaused,
    Seen::StoodStill,
    Seen::LeftSilent,
    Seen::Classes,
];

/// In how many schedules each was met.
#[derive(Clone, Debug)]
pub struct Coverage {
    counts: [u64; ALL.len()],
    pub schedules: u64,
    pub steps: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage { counts: [0; ALL.len()], schedules: 0, steps: 0 }
    }
}

impl Coverage {
    /// A schedule has ended.
    pub fn add(&mut self, seen: u128, steps: u64) {
        for (i, count) in self.counts.iter_mut().enumerate() {
            *count += (seen >> i & 1) as u64;
        }
        self.schedules += 1;
        self.steps += steps;
    }

    /// What others have met.
    pub fn join(&mut self, other: &Coverage) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.schedules += other.schedules;
        self.steps += other.steps;
    }

    /// What no schedule has met.
    pub fn missing(&self) -> Vec<Seen> {
        ALL.into_iter().filter(|&what| self.counts[what as usize] == 0).collect()
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} schedules, {} steps; met in so many schedules:", self.schedules, self.steps)?;
        for what in ALL {
            writeln!(f, "  {:<22}{:>9}", format!("{what:?}"), self.counts[what as usize])?;
        }
        Ok(())
    }
}
