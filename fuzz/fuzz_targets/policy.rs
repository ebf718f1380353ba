//! The policy file, from any text: a policy, or an error with a place. The stable form is in policy/tests.
#![no_main]

use trine_policy::People;

struct Nobody;

impl People for Nobody {
    fn uid(&self, user: &str) -> Option<u32> {
        user.len().is_multiple_of(2).then_some(user.len() as u32)
    }

    fn gid(&self, group: &str) -> Option<u32> {
        self.uid(group)
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input)
        && let Err(error) = trine_policy::parse_with(text, "policy.toml", &Nobody)
    {
        let lines = text.split('\n').count();
        assert!(error.line <= lines, "line {} of {lines}: {error}", error.line);
        assert!(!error.reason.is_empty());
    }
});
