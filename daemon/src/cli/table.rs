//! Tables for people: columns as wide as their widest cell, the last one free.

use std::fmt::Write as _;

/// Rows of one table; the first is its heading.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; a heading that starts with `>` names a column of numbers, set to the right.
    #[must_use]
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            right: headings.iter().map(|heading| heading.starts_with('>')).collect(),
            rows: vec![headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)).into());
    }

    /// Whether there are no rows below the heading.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table as text, each line behind `indent`.
    #[must_use]
    pub fn render(&self, indent: &str) -> String {
        let widths: Vec<usize> = (0..self.right.len())
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let _infallible = if self.right[column] {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Text from outside without control characters: a terminal would obey them.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// Bytes as people read them: `1.5 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    scaled(count as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Bits a second as people read them: `9.4 Mbit/s`.
#[must_use]
pub fn bits_per_second(rate: f64) -> String {
    scaled(rate, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s"])
}

/// A count as people read it: `12.3 M`.
#[must_use]
pub fn count(count: u64) -> String {
    if count < 100_000 { count.to_string() } else { scaled(count as f64, 1000.0, &["", "k", "M", "G", "T"]) }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} {}", units[0]) } else { format!("{value:.1} {}", units[unit]) }
}

/// A time span as people read it: `3 d 4 h`, `12 s`.
#[must_use]
pub fn span(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_gone() {
        let mut table = Table::new(["name", ">bytes"]);
        table.row(["eth0".into(), "7".into()]);
        table.row(["a\u{1b}[2J".into(), "1234".into()]);
        assert_eq!(table.render(""), "name   bytes\neth0       7\na\u{fffd}[2J   1234\n");
    }

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bits_per_second(9_400_000.0), "9.4 Mbit/s");
        assert_eq!(span(90_061), "1 d 1 h");
    }
}
