//! The fenced blocks of a guide, in their order. What no test knows how to try is an error, so that nothing is shown untried.

/// One fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// The word behind the fence.
    pub language: String,
    /// What follows that word: what the test does with it.
    pub purpose: String,
    /// Its lines.
    pub text: String,
}

/// Every block of `markdown`.
///
/// # Errors
/// A fence without a language, or without an end; the line is said.
pub fn blocks(markdown: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in markdown.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (open.take(), fence) {
            (None, None) => {}
            (None, Some(info)) => {
                let (language, purpose) = info.trim().split_once(' ').unwrap_or((info.trim(), ""));
                if language.is_empty() {
                    return Err(format!("line {}: a block without a language", index + 1));
                }
                let (language, purpose) = (language.to_owned(), purpose.trim().to_owned());
                open = Some(Block { line: index + 1, language, purpose, text: String::new() });
            }
            (Some(block), Some("")) => blocks.push(block),
            (Some(mut block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
        }
    }
    match open {
        Some(block) => Err(format!("line {}: the block does not end", block.line)),
        None => Ok(blocks),
    }
}

#[test]
fn blocks_are_found_with_their_purpose_and_none_is_overlooked() {
    let found = blocks("a\n```sh app\nx\n\ny\n```\n  ```text\n  ```\n").unwrap();
    let block = |line, language: &str, purpose: &str, text: &str| Block {
        line,
        language: language.to_owned(),
        purpose: purpose.to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(found, [block(2, "sh", "app", "x\n\ny\n"), block(7, "text", "", "")]);
    assert!(blocks("```\nx\n```\n").unwrap_err().contains("line 1: a block without a language"));
    assert!(blocks("\n```sh\nx\n").unwrap_err().contains("line 2: the block does not end"));
}
