//! The guide shows the first plugin exactly as it is compiled and tested.

#[test]
fn the_first_plugin_of_the_guide_is_the_example() {
    let (guide, example) = (include_str!("../../docs/plugins.md"), include_str!("../examples/hello.rs"));
    assert!(guide.contains(&format!("```rust\n{example}```")), "docs/plugins.md must show plugin-api/examples/hello.rs word for word");
}
