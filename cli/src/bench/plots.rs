//! Plots: percentile curves, latency against the offered rate, bars beside their floor. SVG.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use trine_measure::latencies::human;

use super::row::Row;
use super::subjects::TRINE;

const SIZE: (u32, u32) = (960, 540);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws what can be drawn of these rows into a folder.
pub fn draw(rows: &[Row], folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (key, rows) in groups(rows, |row| row.setting.load.rate.is_none()) {
        file(folder, &format!("percentiles-{key}"), |area| curves(area, &key, &rows))?;
        file(folder, &format!("bars-{key}"), |area| bars(area, &key, &rows))?;
    }
    for (key, rows) in groups(rows, |row| row.setting.load.rate.is_some()) {
        file(folder, &format!("rates-{key}"), |area| rates(area, &key, &rows))?;
    }
    Ok(())
}

/// Rows that stand beside each other: of one part, placement, waiting and size.
fn groups(rows: &[Row], is: impl Fn(&Row) -> bool) -> BTreeMap<String, Vec<&Row>> {
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| is(row)) {
        let s = &row.setting;
        let waiting = if s.waiting.polls() { "polling" } else { s.waiting.name() };
        let mut key = format!("{}-{}-{waiting}-{}B", row.part, s.placement.name(), s.bytes);
        if let Some(ns) = s.load.every_ns {
            key += &format!("-every-{}us", ns / 1_000);
        }
        if s.load.in_flight > 1 && s.load.rate.is_none() {
            key += &format!("-{}", s.load.in_flight);
        }
        groups.entry(key).or_default().push(row);
    }
    groups.retain(|_, rows| !rows.is_empty());
    groups
}

fn file(folder: &Path, name: &str, draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let path = folder.join(format!("{name}.svg"));
    let area = SVGBackend::new(&path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    draw(&area)?;
    area.present().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

fn colour(row: &Row, index: usize) -> RGBColor {
    match &row.what[..] {
        TRINE => RED,
        what if what.starts_with("floor") => RGBColor(120, 120, 120),
        _ => {
            let (r, g, b) = Palette99::pick(index + 1).to_rgba().rgb();
            RGBColor(r, g, b)
        }
    }
}

/// The labels of a logarithmic axis of nanoseconds.
fn time(ns: &f64) -> String {
    human(*ns as u64)
}

fn bounds(values: impl Iterator<Item = u64>) -> (f64, f64) {
    let (low, high) = values.fold((u64::MAX, 1), |(low, high), ns| (low.min(ns), high.max(ns)));
    (low.min(high).max(1) as f64 * 0.8, high as f64 * 1.25)
}

/// How far out a percentile is: nines, so that each is as wide as the one before.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn curves(area: &Area<'_>, title: &str, rows: &[&Row]) -> anyhow::Result<()> {
    let (low, high) = bounds(rows.iter().flat_map(|row| row.curve.iter().map(|p| p.ns)));
    let out = rows.iter().flat_map(|row| row.curve.iter().map(|p| nines(p.percentile))).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..out, (low..high).log_scale())
        .map_err(failed)?;
    let percent = |nines: &f64| {
        format!("{:.3}", 100.0 - 100.0 / 10f64.powf(*nines))
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    };
    chart
        .configure_mesh()
        .x_desc("percentile")
        .x_labels(6)
        .x_label_formatter(&percent)
        .y_label_formatter(&time)
        .draw()
        .map_err(failed)?;
    for (index, row) in rows.iter().enumerate() {
        let colour = colour(row, index);
        let points = row.curve.iter().map(|p| (nines(p.percentile), p.ns as f64));
        let series = LineSeries::new(points, colour.stroke_width(2));
        let series = chart.draw_series(series).map_err(failed)?;
        series
            .label(&row.what)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    legend(&mut chart)
}

fn legend<'a, X: Ranged, Y: Ranged>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
) -> anyhow::Result<()> {
    let labels = chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw();
    labels.map_err(failed)
}

/// p50 with a line, p99 with points, against the rate that was asked for.
fn rates(area: &Area<'_>, title: &str, rows: &[&Row]) -> anyhow::Result<()> {
    let rate = |row: &Row| row.setting.load.rate.unwrap_or(1) as f64;
    let (low, high) = bounds(rows.iter().flat_map(|row| [row.latency_ns.p50, row.latency_ns.p99]));
    let (slow, fast) =
        rows.iter().map(|row| rate(row)).fold((f64::MAX, 1.0_f64), |(a, b), r| (a.min(r), b.max(r)));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}: p50 (lines) and p99 (points) from the intended time"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d((slow * 0.9..fast * 1.1).log_scale(), (low..high).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("calls per second, offered")
        .x_label_formatter(&|r| format!("{r:.0}"))
        .y_label_formatter(&time)
        .draw()
        .map_err(failed)?;
    let mut subjects: Vec<&str> = rows.iter().map(|row| row.what.as_str()).collect();
    subjects.sort_unstable();
    subjects.dedup();
    for (index, what) in subjects.into_iter().enumerate() {
        let mine: Vec<&&Row> = rows.iter().filter(|row| row.what == what).collect();
        let colour = colour(mine[0], index);
        let middle = mine.iter().map(|row| (rate(row), row.latency_ns.p50 as f64));
        let series = chart.draw_series(LineSeries::new(middle, colour.stroke_width(2))).map_err(failed)?;
        series
            .label(what)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        let tail =
            mine.iter().map(|row| Circle::new((rate(row), row.latency_ns.p99 as f64), 3, colour.filled()));
        chart.draw_series(tail).map_err(failed)?;
    }
    legend(&mut chart)
}

/// A bar of p50 for each, a mark at its p99, and a line at the floor.
fn bars(area: &Area<'_>, title: &str, rows: &[&Row]) -> anyhow::Result<()> {
    let (low, high) = bounds(rows.iter().flat_map(|row| [row.latency_ns.p50, row.latency_ns.p99]));
    let (low, count) = (low * 0.6, rows.len());
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}: p50, and a mark at p99"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(240)
        .build_cartesian_2d((low..high).log_scale(), 0.0..count as f64)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&time)
        .draw()
        .map_err(failed)?;
    for (index, row) in rows.iter().enumerate() {
        let (top, s) = ((count - index) as f64, &row.latency_ns);
        let colour = colour(row, index);
        let bar = Rectangle::new([(low, top - 0.8), (s.p50 as f64, top - 0.2)], colour.mix(0.7).filled());
        let mark = PathElement::new(
            [(s.p99 as f64, top - 0.85), (s.p99 as f64, top - 0.15)],
            colour.stroke_width(3),
        );
        chart.draw_series([bar]).map_err(failed)?;
        chart.draw_series([mark]).map_err(failed)?;
        let (x, y) = chart.backend_coord(&(low, top - 0.5));
        let style = ("sans-serif", 14).into_font().color(&BLACK).pos(Pos::new(HPos::Right, VPos::Center));
        let text = format!("{} {}", row.what, human(s.p50));
        area.draw(&Text::new(text, (x - 6, y), style)).map_err(failed)?;
    }
    if let Some(floor) = rows.iter().find(|row| row.what.starts_with("floor")) {
        let at = floor.latency_ns.p50 as f64;
        let line = PathElement::new([(at, 0.0), (at, count as f64)], RGBColor(120, 120, 120).stroke_width(1));
        chart.draw_series([line]).map_err(failed)?;
    }
    Ok(())
}
