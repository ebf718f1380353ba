//! A manual page for each subcommand, which `man` can show.

use std::process::Command;

#[test]
fn each_subcommand_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let trine = || Command::new(env!("CARGO_BIN_EXE_trine"));
    let made = trine().arg("man").arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let help = String::from_utf8(trine().arg("--help").output().unwrap().stdout).unwrap();
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut pages = 1;
    for command in commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        if command.is_empty() || command == "help" {
            continue;
        }
        let page = std::fs::read_to_string(folder.path().join(format!("trine-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH OPTIONS"), "{command}: {page}");
        pages += 1;
    }
    let whole = std::fs::read_to_string(folder.path().join("trine.1")).unwrap();
    assert!(whole.contains(".SH SUBCOMMANDS") && pages > 7, "{pages} pages: {whole}");
}
