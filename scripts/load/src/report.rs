//! What was measured, as JSON and as a table with a column for each server.

use std::{
    fmt::Write as _,
    ops::{Add, Sub},
};

use serde::{Deserialize, Serialize};

use crate::samples::Samples;

/// Prices of Durable Objects, in $ for a million: calls and alarms, rows written, rows read.
const REQUESTS_PRICE: f64 = 0.15;
const ROWS_WRITTEN_PRICE: f64 = 1.00;
const ROWS_READ_PRICE: f64 = 0.001;

/// Everything about one server.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub server: String,
    pub figures: Vec<Figure>,
    pub costs: Vec<Cost>,
    #[serde(default)]
    pub growth: Vec<Growth>,
    pub budgets: Vec<Budget>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Figure {
    pub what: String,
    pub unit: String,
    pub value: f64,
    pub better: Better,
}

/// The server's counters, or the difference of two readings.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    calls: u64,
    alarms: u64,
    rows_read: u64,
    rows_written: u64,
    metadata_queries: u64,
    bytes: u64,
    #[serde(default)]
    wasm_bytes: u64,
}

/// What a number of operations of one kind cost together.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cost {
    operation: String,
    count: usize,
    total: Counters,
}

pub(crate) struct PerOperation {
    /// Calls to actors. An alarm that fires is not among them; the row that arming it writes is among the rows.
    pub calls: f64,
    pub alarms: f64,
    pub rows_read: f64,
    pub rows_written: f64,
    pub metadata_queries: f64,
    pub kilobytes: f64,
}

/// How operations grow with what there is.
#[derive(Serialize, Deserialize)]
pub(crate) struct Growth {
    pub of: String,
    pub sizes: Vec<usize>,
    pub lines: Vec<Line>,
}

/// One figure, at every size.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    what: String,
    unit: String,
    values: Vec<f64>,
}

impl Line {
    pub(crate) fn new(what: &str, unit: &str, values: Vec<f64>) -> Self {
        Self { what: what.to_owned(), unit: unit.to_owned(), values }
    }
}

/// A count that may not grow unnoticed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Budget {
    what: String,
    measured: f64,
    allowed: f64,
}

impl Report {
    pub(crate) fn new(server: String) -> Self {
        Self { server, figures: Vec::new(), costs: Vec::new(), growth: Vec::new(), budgets: Vec::new() }
    }

    pub(crate) fn figure(&mut self, what: &str, unit: &str, value: f64, better: Better) {
        eprintln!("    {what}: {} {unit}", number(value));
        self.figures.push(Figure { what: what.to_owned(), unit: unit.to_owned(), value, better });
    }

    pub(crate) fn rate(&mut self, what: &str, unit: &str, per_second: f64) {
        self.figure(what, unit, per_second, Better::Higher);
    }

    pub(crate) fn percentiles(&mut self, what: &str, samples: &Samples) {
        for percent in [50, 99] {
            self.figure(what, &format!("p{percent} ms"), samples.percentile_ms(percent), Better::Lower);
        }
    }

    pub(crate) fn cost(&mut self, cost: Cost) {
        self.figure(&format!("cost of {}", cost.operation), "$/million", cost.dollars_per_million(), Better::Lower);
        self.costs.push(cost);
    }

    pub(crate) fn growth(&mut self, growth: Growth) {
        self.growth.push(growth);
    }

    pub(crate) fn budget(&mut self, budget: Budget) {
        self.budgets.push(budget);
    }
}

impl Counters {
    /// Reads the Prometheus text format. A counter that is not there is 0.
    pub(crate) fn parse(text: &str) -> Self {
        let counter = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Self {
            calls: counter("myelin_object_requests_total"),
            alarms: counter("myelin_object_alarms_total"),
            rows_read: counter("myelin_rows_read_total"),
            rows_written: counter("myelin_rows_written_total"),
            metadata_queries: counter("myelin_metadata_queries_total"),
            bytes: counter("myelin_object_bytes_total"),
            wasm_bytes: counter("myelin_wasm_memory_bytes"),
        }
    }

    fn with(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            calls: combine(self.calls, other.calls),
            alarms: combine(self.alarms, other.alarms),
            rows_read: combine(self.rows_read, other.rows_read),
            rows_written: combine(self.rows_written, other.rows_written),
            metadata_queries: combine(self.metadata_queries, other.metadata_queries),
            bytes: combine(self.bytes, other.bytes),
            wasm_bytes: combine(self.wasm_bytes, other.wasm_bytes),
        }
    }

    /// Rows read and written.
    pub(crate) fn rows(self) -> (f64, f64) {
        (self.rows_read as f64, self.rows_written as f64)
    }

    /// The memory of the server's code, in MB, where it has one of its own.
    pub(crate) fn wasm_mb(self) -> Option<f64> {
        (self.wasm_bytes > 0).then_some(self.wasm_bytes as f64 / 1_000_000.0)
    }
}

impl Add for Counters {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }
}

impl Sub for Counters {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }
}

impl Cost {
    pub(crate) fn new(operation: &str, count: usize, total: Counters) -> Self {
        Self { operation: operation.to_owned(), count, total }
    }

    pub(crate) fn per_operation(&self) -> PerOperation {
        let each = |total: u64| total as f64 / self.count.max(1) as f64;
        PerOperation {
            calls: each(self.total.calls),
            alarms: each(self.total.alarms),
            rows_read: each(self.total.rows_read),
            rows_written: each(self.total.rows_written),
            metadata_queries: each(self.total.metadata_queries),
            kilobytes: each(self.total.bytes) / 1000.0,
        }
    }

    /// The platform bills an alarm that fires as a request.
    fn dollars_per_million(&self) -> f64 {
        let each = self.per_operation();
        (each.calls + each.alarms) * REQUESTS_PRICE
            + each.rows_written * ROWS_WRITTEN_PRICE
            + each.rows_read * ROWS_READ_PRICE
    }
}

impl Budget {
    pub(crate) fn at_most(what: &str, measured: f64, allowed: f64) -> Self {
        Self { what: what.to_owned(), measured, allowed }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.measured <= self.allowed
    }
}

/// All servers side by side, with ratios against the first, then costs in detail, then the budgets.
pub(crate) fn render(reports: &[Report]) -> String {
    let is_any = reports.iter().any(|report| !report.figures.is_empty());
    let mut text = if is_any { figures(reports) } else { String::new() };
    for report in reports {
        if !report.costs.is_empty() {
            text.push_str(&costs(report));
        }
        for growth in &report.growth {
            text.push_str(&curves(&report.server, growth));
        }
    }
    for report in reports {
        for budget in &report.budgets {
            let word = if budget.is_kept() { "pass" } else { "FAIL" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{word}  {}, {}: {} (at most {})",
                report.server,
                budget.what,
                number(budget.measured),
                number(budget.allowed)
            );
        }
    }
    text
}

fn figures(reports: &[Report]) -> String {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for figure in reports.iter().flat_map(|report| &report.figures) {
        let name = (figure.what.as_str(), figure.unit.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut rows = vec![vec![String::new()]];
    rows.extend(names.iter().map(|(what, unit)| vec![format!("{what}: {unit}")]));
    let first: Vec<Option<f64>> = names.iter().map(|name| reports.first().and_then(|one| value(one, *name))).collect();
    for (column, report) in reports.iter().enumerate() {
        let values: Vec<Option<f64>> = names.iter().map(|name| value(report, *name)).collect();
        let cells = values.iter().map(|value| value.map_or("–".to_owned(), number));
        extend(&mut rows, &report.server, cells);
        if column > 0 {
            let ratios = values.iter().zip(&first).map(|(value, first)| match (value, first) {
                (Some(value), Some(first)) if *first > 0.0 => format!("{}×", number(value / first)),
                _ => String::new(),
            });
            extend(&mut rows, "", ratios);
        }
    }
    aligned(&rows)
}

/// One more column, under a head.
fn extend(rows: &mut [Vec<String>], head: &str, cells: impl Iterator<Item = String>) {
    for (row, cell) in rows.iter_mut().zip([head.to_owned()].into_iter().chain(cells)) {
        row.push(cell);
    }
}

fn value(report: &Report, (what, unit): (&str, &str)) -> Option<f64> {
    report.figures.iter().find(|figure| figure.what == what && figure.unit == unit).map(|figure| figure.value)
}

fn costs(report: &Report) -> String {
    let head = ["calls", "alarms", "rows read", "rows written", "metadata", "kB", "$/million"];
    let title = format!("{}, per operation", report.server);
    let mut rows = vec![[title].into_iter().chain(head.map(str::to_owned)).collect::<Vec<_>>()];
    for cost in &report.costs {
        let each = cost.per_operation();
        let numbers = [
            each.calls,
            each.alarms,
            each.rows_read,
            each.rows_written,
            each.metadata_queries,
            each.kilobytes,
            cost.dollars_per_million(),
        ];
        rows.push([cost.operation.clone()].into_iter().chain(numbers.map(number)).collect());
    }
    aligned(&rows)
}

fn curves(server: &str, growth: &Growth) -> String {
    let title = format!("{server}, {}", growth.of);
    let mut rows = vec![[title].into_iter().chain(growth.sizes.iter().map(usize::to_string)).collect::<Vec<_>>()];
    rows.extend(growth.lines.iter().map(|line| {
        let what = format!("{}: {}", line.what, line.unit);
        [what].into_iter().chain(line.values.iter().copied().map(number)).collect()
    }));
    aligned(&rows)
}

/// The first column to the left, the others to the right, an empty line at the end.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") }
        });
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Three digits are what a measurement is worth.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let text = "# HELP myelin_rows_read_total x\n# TYPE myelin_rows_read_total counter\nmyelin_rows_read_total 7\n\
                    myelin_rows_read_total_not 8\nmyelin_object_requests_total 9\n";
        let read = Counters::parse(text);
        assert_eq!(read, Counters { calls: 9, rows_read: 7, ..Counters::default() });
        assert_eq!(read + read - read, read);
    }

    #[test]
    fn an_operation_is_priced_with_its_alarms() {
        let total = Counters { calls: 40, alarms: 10, rows_read: 1000, rows_written: 50, ..Counters::default() };
        let cost = Cost::new("send", 10, total);
        assert!((cost.dollars_per_million() - (5.0 * 0.15 + 5.0 + 0.1)).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_against_the_first_server() {
        let mut fast = Report::new("fast".to_owned());
        fast.rate("send", "sends/s", 2000.0);
        let mut slow = Report::new("slow".to_owned());
        slow.rate("send", "sends/s", 500.0);
        slow.figure("sync", "p50 ms", 1.25, Better::Lower);
        slow.budget(Budget::at_most("calls", 3.0, 2.0));
        let expected = [
            "               fast  slow",
            "send: sends/s  2000   500  0.25×",
            "sync: p50 ms      –  1.25",
            "",
            "FAIL  slow, calls: 3.00 (at most 2.00)",
            "",
        ];
        assert_eq!(render(&[fast, slow]), expected.join("\n"));
    }
}
