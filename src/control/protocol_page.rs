//! The page as data: its tables, and the formulas in them.

/// One line of a table.
pub struct Row {
    line: usize,
    cells: Vec<String>,
}

impl Row {
    /// A cell, without its backticks; what is not there is empty.
    pub fn cell(&self, column: usize) -> &str {
        self.cells.get(column).map_or("", String::as_str)
    }

    /// Says which line is wrong, and how.
    pub fn wrong(&self, why: impl std::fmt::Display) -> ! {
        panic!("PROTOCOL.md:{}: {why}", self.line)
    }

    /// That a cell says what the code says.
    pub fn expect(&self, column: usize, code: impl ToString) {
        let (page, code) = (self.cell(column), code.to_string());
        if page != code {
            self.wrong(format!("{}: the page says {page:?}, the code {code:?}", self.cell(0)));
        }
    }

    /// A cell that is a number, decimal or hexadecimal.
    pub fn number(&self, column: usize) -> u64 {
        let text = self.cell(column);
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        parsed.unwrap_or_else(|_| self.wrong(format!("{text:?} is no number")))
    }

    /// The word and the bits of it that two cells name, as a mask.
    pub fn bits(&self) -> (usize, u64) {
        let bits = self.cell(1).split_once('–').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match bits {
            Some((first, last)) if first <= last && last < 64 => {
                let (first, last): (u32, u32) = (first, last);
                (self.number(0) as usize, u64::MAX >> (63 - last) & u64::MAX << first)
            }
            _ => self.wrong(format!("{:?} are no bits", self.cell(1))),
        }
    }

    /// The value of a cell that is a formula.
    pub fn formula(&self, column: usize, variables: &[(&str, u64)]) -> u64 {
        let mut formula = Formula { rest: self.cell(column), variables };
        match formula.sum() {
            Some(value) if formula.rest.is_empty() => value,
            _ => self.wrong(format!("{:?} is no formula", self.cell(column))),
        }
    }
}

/// The rows of the table under a heading, its head and its rule left out.
pub fn table(page: &str, heading: &str) -> Vec<Row> {
    let lines =
        page.lines().enumerate().skip_while(|(_, line)| line.trim_start_matches('#').trim() != heading);
    let section = lines.skip(1).take_while(|(_, line)| !line.starts_with('#'));
    let rows =
        section.skip_while(|(_, line)| !line.starts_with('|')).take_while(|(_, line)| line.starts_with('|'));
    let rows: Vec<Row> = rows
        .skip(2)
        .map(|(i, line)| {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
            Row { line: i + 1, cells: cells.collect() }
        })
        .collect();
    assert!(!rows.is_empty(), "PROTOCOL.md has no table under {heading:?}");
    rows
}

/// That a table has these rows, by a column, in this order; returns them beside what they were compared with.
pub fn matched<T>(rows: &[Row], column: usize, code: Vec<(String, T)>) -> Vec<(&Row, T)> {
    for (row, (name, _)) in rows.iter().zip(&code) {
        if row.cell(column) != *name {
            row.wrong(format!("the page has {:?} where the code has {name:?}", row.cell(column)));
        }
    }
    match (rows.get(code.len()), code.get(rows.len())) {
        (Some(row), _) => row.wrong("the code has no such row"),
        (_, Some((name, _))) => rows[rows.len() - 1].wrong(format!("behind it, {name:?} is missing")),
        _ => rows.iter().zip(code).map(|(row, (_, code))| (row, code)).collect(),
    }
}

/// Sums of products of numbers, variables, parentheses and `up(x, unit)`.
struct Formula<'a> {
    rest: &'a str,
    variables: &'a [(&'a str, u64)],
}

impl Formula<'_> {
    fn sum(&mut self) -> Option<u64> {
        let mut value = self.product()?;
        while self.eat("+") {
            value += self.product()?;
        }
        Some(value)
    }

    fn product(&mut self) -> Option<u64> {
        let mut value = self.factor()?;
        while self.eat("*") {
            value *= self.factor()?;
        }
        Some(value)
    }

    fn factor(&mut self) -> Option<u64> {
        if self.eat("up(") {
            let value = self.sum()?;
            let unit = if self.eat(",") { self.sum()? } else { return None };
            return self.eat(")").then(|| value.next_multiple_of(unit));
        }
        if let Some(&(_, value)) = self.variables.iter().find(|(name, _)| self.rest.starts_with(name)) {
            self.rest = self.rest[1..].trim_start();
            return Some(value);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let value = self.rest[..end].parse().ok()?;
        self.rest = self.rest[end..].trim_start();
        Some(value)
    }

    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.map_or(self.rest, str::trim_start);
        rest.is_some()
    }
}
