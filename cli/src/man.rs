//! `trine man`: its manual pages, a page for each subcommand, made of what `--help` says.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command};

/// Write the manual pages of this command into a folder.
///
/// `trine man ~/.local/share/man/man1`, then `man trine-call`.
#[derive(Args)]
pub struct ManOptions {
    /// Where to; made if it is not there.
    folder: PathBuf,
}

pub fn run(command: Command, options: &ManOptions) -> anyhow::Result<()> {
    let folder = &options.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write(&command, folder)
}

fn write(command: &Command, folder: &Path) -> anyhow::Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    let path = folder.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(&path, text).with_context(|| format!("{} could not be written", path.display()))?;
    let mut subcommands =
        command.get_subcommands().filter(|each| !each.is_hide_set() && each.get_name() != "help");
    subcommands.try_for_each(|each| write(each, folder))
}
