//! `tidegate(1)` and a page for each subcommand.

use std::{fs, io, path::Path};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

/// Writes the page of `command` and those of its subcommands.
pub(crate) fn write(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write(subcommand, folder, date)?;
    }
    let version = command.get_version().unwrap_or_default();
    let page = Man::new(command.clone()).date(date).source(format!("tidegate {version}")).manual("tidegate");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    if let Some(help) = command.get_after_help() {
        after_help(&mut rest, &help.to_string());
    }
    see_also(&mut rest, command);
    rest.to_writer(&mut text)?;
    fs::write(folder.join(page.get_filename()), text)
}

/// A paragraph `Examples:`, with its lines below it, becomes a section that keeps them; `Exit status: …` becomes one
/// that flows. (`clap_mangen` itself would make one section `EXTRA`, with examples broken anywhere.)
fn after_help(page: &mut Roff, help: &str) {
    for paragraph in help.split("\n\n") {
        let (heading, body) = paragraph.split_once(':').unwrap_or(("Notes", paragraph));
        page.control("SH", [heading.trim().to_uppercase().as_str()]);
        match body.strip_prefix('\n') {
            Some(lines) => {
                page.control("nf", []);
                for line in lines.lines() {
                    page.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
                }
                page.control("fi", []);
            }
            None => {
                page.text([roman(body.trim())]);
            }
        }
    }
}

fn see_also(page: &mut Roff, command: &Command) {
    page.control("SH", ["SEE ALSO"]);
    let mut words = Vec::new();
    if command.get_name() != "tidegate" {
        words.extend([bold("tidegate"), roman("(1), ")]);
    }
    words.extend([bold("tidegate.toml"), roman("(5)")]);
    page.text(words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines_and_other_paragraphs_flow() {
        let mut page = Roff::new();
        after_help(&mut page, "Examples:\n  tidegate a | b\n  tidegate c\n\nExit status: 0 well, 1 failure.");
        let text = page.to_roff();
        assert!(text.contains(".SH EXAMPLES\n.nf\ntidegate a | b\ntidegate c\n.fi\n"), "{text}");
        assert!(text.contains(".SH \"EXIT STATUS\"\n0 well, 1 failure.\n"), "{text}");
    }
}
