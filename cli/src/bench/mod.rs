//! `trine bench`: how long a call takes, how long the least takes that a call could be, and how long it takes elsewhere.
//!
//! ```text
//! part.rs        what is measured in which settings              subjects.rs  who is measured: Trine, floors, forms, …
//! round.rs       one subject, one setting, one set of processes  placement.rs where those run
//! row.rs         what all rounds of it gave                      report.rs    all figures, as JSON
//! party/         what the processes do                           plots.rs     curves and bars
//! goals.rs       ratios that are to be reached                   scale.rs     what sessions cost; recovery
//! ```
//! A round starts its own processes, and those who stand beside each other in a table take turns, so that what drifts
//! (clocks, neighbours, memory) hits all of them. Every row names its placement and how its processes wait.

mod cpu;
mod goals;
mod part;
pub mod party;
pub mod placement;
mod plots;
mod report;
mod round;
mod row;
mod scale;
mod subjects;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use trine_measure::{Load, Wait};

use crate::exit::Usage;
use crate::processes::Foreground;
use part::{Chosen, Part};
use placement::{Placement, available};
use report::Report;
use round::{Contender, FLOOR, Rounds, Setting};
use row::Row;

/// Measure calls between processes, and beside them the bare relay of a cache line as the floor.
///
/// Starts director, worker and client as processes of their own on a private bus, once a round. In the same rounds
/// one cache line is passed through three processes with the same placement and waiting (through eventfds, where they
/// sleep): the least that a call through a broker could cost. Every payload is written, read and checked at both ends.
#[derive(Args)]
#[command(after_help = "\
Examples:
  trine bench                                           latency and throughput, in half a minute
  trine bench latency --placement split --calls 1000000
  trine bench large open --beside all --json bench.json --plots plots
  trine bench goals --rivals rivals/target/release/trine-rivals
  trine bench all --beside all --rivals rivals/target/release/trine-rivals --json all.json --plots plots

Rows that poll and are pinned may come at two levels, by the order in which processes take turns on a CPU: then the
figures are those of the better one, and ROUNDS says how many rounds of all it is. All rounds' p50 are in the JSON.")]
pub struct BenchOptions {
    /// What to measure [default: latency throughput].
    #[arg(value_enum)]
    parts: Vec<PartOption>,
    /// Where the processes run [default: all that make sense here].
    #[arg(long, value_enum, value_delimiter = ',')]
    placement: Vec<Placement>,
    /// What the processes do while there is nothing to do.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "yield,park")]
    waiting: Vec<Wait>,
    /// Calls a round; fewer where each takes long.
    #[arg(long, default_value_t = 20_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// Rounds of each.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Latency: bytes of request and answer.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64", value_parser = bytes)]
    bytes: Vec<usize>,
    /// Throughput: so many calls in flight.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8,64", value_parser = in_flight)]
    in_flight: Vec<usize>,
    /// Open loop: calls per second.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "10000,50000,100000,200000,500000",
          value_parser = clap::value_parser!(u64).range(1..))]
    rates: Vec<u64>,
    /// Who is measured beside Trine.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "floors")]
    beside: Vec<Beside>,
    /// A program with rivals: see rivals/README.md.
    #[arg(long, value_name = "PROGRAM")]
    rivals: Option<PathBuf>,
    /// Of all those, only subjects whose name has this in it; Trine always.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// Sessions, goals: idle sessions beside the one that calls, at most.
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    idle_sessions: usize,
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw plots into this folder (SVG): percentile curves, bars, latency against the offered rate.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
}

/// A part, or all of them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PartOption {
    All,
    Latency,
    Default,
    Doorbells,
    Forms,
    Large,
    Paced,
    Open,
    Throughput,
    Sessions,
    Neighbour,
    Busy,
    Workers,
    Connect,
    Fairness,
    /// What sessions cost, and how long recovery takes.
    Scale,
    /// What Trine is meant to reach, as ratios: each met or missed.
    Goals,
}

/// Who stands beside Trine.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Beside {
    /// Floors, forms, what the system has, and rivals if there are.
    All,
    /// What nobody can be faster than.
    Floors,
    /// Two, three and four messages over the same rings.
    Forms,
    /// Unix sockets and pipes.
    System,
}

fn bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if bytes >= 8 && bytes % 8 == 0 => Ok(bytes),
        _ => Err("a multiple of 8, and 8 at least".into()),
    }
}

fn in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(calls @ 1..=4096) => Ok(calls),
        _ => Err("from 1 to 4096".into()),
    }
}

/// Runs it.
pub fn run(options: &BenchOptions) -> anyhow::Result<ExitCode> {
    let cpus = available();
    let chosen = chosen(options, cpus.len())?;
    let bench = Bench {
        rounds: Rounds { cpus, foreground: Foreground::new()? },
        count: options.rounds,
        others: others(options)?,
    };
    let mut report = Report::new(bench.rounds.cpus.len(), options.rounds);
    for part in parts(&options.parts) {
        print(&format!("{}\n", part.title()))?;
        let rows = bench.part(part, &chosen)?;
        print(&row::table(&rows))?;
        report.rows.extend(rows);
    }
    if asked(options, PartOption::Scale) {
        print("What sessions cost, and how long recovery takes\n")?;
        for sessions in [10, 100, 1_000, 3_000].into_iter().filter(|n| *n <= options.idle_sessions) {
            report.figures.extend(scale::cost(sessions)?);
            report.figures.extend(scale::recovery(sessions)?);
        }
        print(&scale::table(&report.figures))?;
    }
    if asked(options, PartOption::Goals) {
        print("Goals, as ratios of what was measured in turns\n")?;
        let found = goals::run(&bench, &chosen)?;
        print(&row::table(&found.rows))?;
        print(&found.table())?;
        report.rows.extend(found.rows);
        report.goals = found.goals;
    }
    if let Some(folder) = &options.plots {
        plots::draw(&report.rows, folder)?;
    }
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Whether a part that is no table of rows was asked for.
fn asked(options: &BenchOptions, part: PartOption) -> bool {
    options.parts.iter().any(|asked| *asked == part || *asked == PartOption::All)
}

fn parts(asked: &[PartOption]) -> Vec<Part> {
    let part = |asked: &PartOption| match asked {
        PartOption::All => Part::ALL.to_vec(),
        PartOption::Latency => vec![Part::Latency],
        PartOption::Default => vec![Part::Default],
        PartOption::Doorbells => vec![Part::Doorbells],
        PartOption::Forms => vec![Part::Forms],
        PartOption::Large => vec![Part::Large],
        PartOption::Paced => vec![Part::Paced],
        PartOption::Open => vec![Part::Open],
        PartOption::Throughput => vec![Part::Throughput],
        PartOption::Sessions => vec![Part::Sessions],
        PartOption::Neighbour => vec![Part::Neighbour],
        PartOption::Busy => vec![Part::Busy],
        PartOption::Workers => vec![Part::Workers],
        PartOption::Connect => vec![Part::Connect],
        PartOption::Fairness => vec![Part::Fairness],
        PartOption::Scale | PartOption::Goals => Vec::new(),
    };
    match asked {
        [] => vec![Part::Latency, Part::Throughput],
        asked => asked.iter().flat_map(part).collect(),
    }
}

fn chosen(options: &BenchOptions, cpus: usize) -> anyhow::Result<Chosen> {
    let spins = options.waiting.contains(&Wait::Spin);
    let placements = match &options.placement[..] {
        [] => Placement::sensible(cpus, spins),
        chosen => chosen.to_vec(),
    };
    if placements.is_empty() {
        let why = format!(
            "spinning wants a CPU for each of 3 processes, and there are {cpus}; --placement insists"
        );
        return Err(Usage(why).into());
    }
    if let Some(large) = placements.iter().find(|p| p.cpus() > cpus) {
        let why = format!("--placement {} takes {} CPUs, and there are {cpus}", large.name(), large.cpus());
        return Err(Usage(why).into());
    }
    Ok(Chosen {
        placements,
        waiting: options.waiting.clone(),
        calls: options.calls,
        in_flight: options.in_flight.clone(),
        rates: options.rates.clone(),
        bytes: options.bytes.clone(),
        idle_sessions: options.idle_sessions,
    })
}

/// Who stands beside Trine.
struct Others {
    floors: Vec<Contender>,
    forms: Vec<Contender>,
    /// What the system has, and rivals.
    rivals: Vec<Contender>,
}

fn others(options: &BenchOptions) -> anyhow::Result<Others> {
    let beside = |what| options.beside.contains(&what) || options.beside.contains(&Beside::All);
    let named = |c: &Contender| {
        options.only.is_empty() || options.only.iter().any(|text| c.subject.name.contains(text.as_str()))
    };
    let those = |is: bool, all: Vec<Contender>| match is {
        true => all.into_iter().filter(named).collect(),
        false => Vec::new(),
    };
    let mut rivals = those(beside(Beside::System), subjects::system());
    if let Some(program) = &options.rivals {
        rivals.extend(those(true, subjects::rivals(program)?));
    }
    Ok(Others {
        floors: those(beside(Beside::Floors), subjects::floors()),
        forms: those(beside(Beside::Forms), subjects::forms()),
        rivals,
    })
}

struct Bench {
    rounds: Rounds,
    count: u32,
    others: Others,
}

impl Bench {
    fn part(&self, part: Part, chosen: &Chosen) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for setting in chosen.settings(part) {
            rows.extend(self.group(part.name(), self.contenders(part, setting))?);
        }
        Ok(rows)
    }

    /// Who takes part, and in which setting.
    fn contenders(&self, part: Part, setting: Setting) -> Vec<(Contender, Setting)> {
        let alone = |all: Vec<Contender>| all.into_iter().map(|contender| (contender, setting)).collect();
        match part {
            Part::Doorbells => return alone([vec![subjects::trine()], subjects::doorbells()].concat()),
            Part::Sessions => return alone(vec![subjects::trine()]),
            Part::Busy => return alone(subjects::busy()),
            Part::Workers => return alone(subjects::workers()),
            Part::Connect => return alone(subjects::connecting()),
            Part::Fairness => return alone(subjects::policies()),
            _ => {}
        }
        let Others { floors, forms, rivals } = &self.others;
        let mut all = vec![subjects::trine()];
        all.extend(floors.iter().cloned());
        if part == Part::Large {
            all.push(subjects::in_place());
        }
        if !floors.is_empty() && part == Part::Large {
            all.push(subjects::memory());
        }
        if !floors.is_empty() && matches!(part, Part::Latency | Part::Forms) {
            all.push(subjects::direct_line());
        }
        match part {
            // Of many in flight the rings' bare director is the floor.
            Part::Forms | Part::Throughput if forms.is_empty() => all.extend(subjects::forms()),
            Part::Forms | Part::Throughput | Part::Latency => all.extend(forms.iter().cloned()),
            _ => {}
        }
        if part != Part::Forms {
            all.extend(rivals.iter().cloned());
        }
        let fit = |contender: Contender| {
            let setting = fitted(part, &contender, setting);
            contender.can(&setting).then_some((contender, setting))
        };
        all.into_iter().filter_map(fit).collect()
    }

    /// Measures all of them, in turns.
    fn group(&self, part: &'static str, contenders: Vec<(Contender, Setting)>) -> anyhow::Result<Vec<Row>> {
        let mut rounds = vec![Vec::new(); contenders.len()];
        for _ in 0..self.count {
            for ((contender, setting), measured) in contenders.iter().zip(&mut rounds) {
                match self.rounds.run(contender, setting) {
                    Ok(round) => measured.push(round),
                    // A rival that fails, or hangs, is not what is measured here.
                    Err(error) if contender.program.is_some() && !is_interrupted(&error) => {
                        tracing::warn!("a round is left out: {error:#}");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let row = |((contender, setting), rounds): (&(Contender, Setting), &Vec<_>)| {
            Row::new(part, contender, *setting, &self.rounds.cpus, rounds)
        };
        let some = contenders.iter().zip(&rounds).filter(|(_, rounds)| !rounds.is_empty());
        let mut rows: Vec<Row> = some.map(row).collect();
        let floor = rows.iter().find(|row| row.what.starts_with(FLOOR)).map(|row| row.latency_ns.p50);
        if let Some(floor) = floor {
            rows.iter_mut()
                .for_each(|row| row.to_floor = Some(row.latency_ns.p50 as f64 / floor.max(1) as f64));
        }
        Ok(rows)
    }
}

/// Whether this process was asked to stop.
fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(trine::Error::Interrupted))
}

/// The setting as this contender can have it, where a part takes all.
fn fitted(part: Part, contender: &Contender, setting: Setting) -> Setting {
    if !part.takes_all() || contender.is_floor() || contender.can(&setting) {
        return setting;
    }
    let subject = &contender.subject;
    let waiting = match subject.waiting.contains(&setting.waiting) {
        true => setting.waiting,
        false => Wait::Park,
    };
    // In an open loop that is a bound, not what is asked for.
    let in_flight = match setting.load.rate {
        Some(_) => setting.load.in_flight.min(subject.in_flight_max),
        None => setting.load.in_flight,
    };
    Setting { waiting, load: Load { in_flight, ..setting.load }, ..setting }
}
