//! What was measured, written as `load table` (scripts/load) reads it.

use std::{path::Path, time::Duration};

use harness::{Value, json};

use crate::meter::Counters;

#[derive(Clone, Copy)]
pub enum Better {
    Higher,
    Lower,
}

/// Everything about one server.
pub struct Report {
    server: String,
    figures: Vec<Value>,
    costs: Vec<Value>,
    budgets: Vec<Value>,
}

impl Report {
    pub fn new(server: &str) -> Self {
        Self { server: server.to_owned(), figures: Vec::new(), costs: Vec::new(), budgets: Vec::new() }
    }

    pub fn figure(&mut self, what: &str, unit: &str, value: f64, better: Better) {
        eprintln!("    {what}: {value:.4} {unit}");
        let better = match better {
            Better::Higher => "higher",
            Better::Lower => "lower",
        };
        self.figures.push(json!({ "what": what, "unit": unit, "value": value, "better": better }));
    }

    pub fn rate(&mut self, what: &str, unit: &str, count: usize, took: Duration) {
        self.figure(what, unit, count as f64 / took.as_secs_f64(), Better::Higher);
    }

    pub fn time(&mut self, what: &str, took: Duration) {
        self.figure(what, "ms", took.as_secs_f64() * 1000.0, Better::Lower);
    }

    /// The median, and what 95 of 100 do not exceed.
    pub fn percentiles(&mut self, what: &str, samples: &mut [Duration]) {
        samples.sort_unstable();
        for percent in [50, 95] {
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            if let Some(sample) = samples.get(rank - 1) {
                self.figure(what, &format!("p{percent} ms"), sample.as_secs_f64() * 1000.0, Better::Lower);
            }
        }
    }

    /// What a number of operations of one kind cost together, if that is known; each may write so many rows.
    pub fn cost(&mut self, operation: &str, count: usize, total: Option<Counters>, rows_max: f64) {
        let Some(total) = total else { return };
        let rows = total.rows_written() as f64 / count.max(1) as f64;
        self.figure(operation, "rows written", rows, Better::Lower);
        self.costs.push(json!({ "operation": operation, "count": count, "total": total.written() }));
        self.budgets
            .push(json!({ "what": format!("{operation}: rows written"), "measured": rows, "allowed": rows_max }));
    }

    pub fn write(&self, file: &Path) {
        let Self { server, figures, costs, budgets } = self;
        let report = json!({ "server": server, "figures": figures, "costs": costs, "budgets": budgets });
        std::fs::write(file, report.to_string()).expect("the measurement is written");
    }
}
