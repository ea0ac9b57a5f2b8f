//! What a web page says of itself. The Open Graph protocol; HTML for those that do not speak it.
//!
//! A page is read as the tokens it consists of, not as a tree: however deep it nests, that costs nothing.

use std::{borrow::Cow, collections::BTreeMap};

use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};
use serde_json::{Map, Value};
use url::Url;

use super::{fetch::plain, oembed::OEmbed};

/// Properties that are passed on.
const PROPERTIES_MAX: usize = 50;
/// The longest name of one, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// The longest text that is passed on, in characters.
const VALUE_CHARS_MAX: usize = 1_000;
/// The longest text that stands for a description, in characters.
const TEXT_CHARS_MAX: usize = 300;
/// How much of a page's text is looked at for that, in bytes.
const TEXT_BYTES_ENOUGH: usize = 4 * TEXT_CHARS_MAX;
/// Images that say they are smaller than this are ornaments, or count who reads. In pixels.
const IMAGE_PIXELS_MIN: u32 = 32;

/// What a page says of itself. Links are as they are written there.
#[derive(Default)]
pub(super) struct Page {
    /// The properties of Open Graph, but for images.
    properties: BTreeMap<String, String>,
    image: Option<String>,
    image_alt: Option<String>,
    /// What some pages say for one reader only.
    twitter: BTreeMap<String, String>,
    title: Option<String>,
    heading: Option<String>,
    description: Option<String>,
    text: Option<String>,
    /// What is meant to stand for the page.
    linked_image: Option<String>,
    /// What is seen there first.
    first_image: Option<String>,
    /// Where a provider says more.
    pub oembed: Option<String>,
    told: OEmbed,
    base: Option<String>,
}

impl Page {
    pub(super) fn read(html: &str) -> Self {
        let mut reader = Reader::default();
        reader.read(html);
        reader.page
    }

    /// The beginning of what a piece of HTML reads like.
    pub(super) fn text_of(html: &str) -> Option<String> {
        Self::read(html).text
    }

    /// Whether the page has a title and an image that its author chose.
    pub(super) fn says_all(&self) -> bool {
        self.properties.contains_key("og:title") && self.image.is_some()
    }

    pub(super) fn learns(&mut self, told: OEmbed) {
        self.told = told;
    }

    /// Where a link on the page leads, if that may be fetched.
    pub(super) fn resolves(&self, url: &Url, link: &str) -> Option<Url> {
        let base = self.base.as_ref().and_then(|base| url.join(base).ok());
        plain(base.as_ref().unwrap_or(url).join(link).ok()?)
    }

    /// The image that stands for the page.
    pub(super) fn image(&self) -> Option<&str> {
        let image = self.image.as_ref().or_else(|| self.twitter.get("twitter:image")).or(self.told.image.as_ref());
        image.or(self.linked_image.as_ref()).or(self.first_image.as_ref()).map(String::as_str)
    }

    /// All it says in words.
    pub(super) fn properties(mut self) -> Map<String, Value> {
        let mut or = |name: &str, others: [Option<String>; 4]| {
            if let Some(text) = others.into_iter().flatten().find(|text| !text.is_empty()) {
                self.properties.entry(name.to_owned()).or_insert(text);
            }
        };
        or("og:title", [self.twitter.remove("twitter:title"), self.told.title, self.title, self.heading]);
        let described = self.twitter.remove("twitter:description");
        or("og:description", [described, self.description, self.told.description, self.text]);
        or("og:site_name", [self.told.site_name, None, None, None]);
        or("og:image:alt", [self.image_alt, None, None, None]);
        self.properties.into_iter().map(|(name, text)| (name, text.into())).collect()
    }
}

/// A text in one line, and no longer than [`VALUE_CHARS_MAX`].
pub(super) fn cut(text: &str) -> String {
    let mut line = Line::default();
    line.push(text, VALUE_CHARS_MAX * 4);
    line.0.chars().take(VALUE_CHARS_MAX).collect()
}

/// Words, with one space between them.
#[derive(Default)]
struct Line(String, bool);

impl Line {
    fn push(&mut self, text: &str, bytes_max: usize) {
        let Self(line, is_after_space) = self;
        for c in text.chars() {
            if line.len() >= bytes_max {
                return;
            }
            if c.is_whitespace() {
                *is_after_space = true;
            } else if !c.is_control() {
                if *is_after_space && !line.is_empty() {
                    line.push(' ');
                }
                *is_after_space = false;
                line.push(c);
            }
        }
    }
}

/// A text that is too long ends after a word.
fn summary(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) else { return Some(text.to_owned()) };
    let beginning = text.get(..end).unwrap_or_default();
    let words = beginning.rsplit_once(' ').map_or(beginning, |(words, _)| words);
    Some(format!("{words}…"))
}

#[derive(Default)]
struct Reader {
    page: Page,
    /// The element whose text is the title or a heading, and that text.
    named: Option<(Vec<u8>, Line)>,
    /// The element that is not read, and how many of its name are open.
    skipped: Option<(Vec<u8>, usize)>,
    text: Line,
}

impl Reader {
    fn read(&mut self, html: &str) {
        let mut emitter = DefaultEmitter::default();
        emitter.naively_switch_states(true);
        for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
            match token {
                Token::StartTag(tag) => self.opens(&tag),
                Token::EndTag(tag) => self.closes(&tag.name),
                Token::String(text) => self.says(&String::from_utf8_lossy(&text)),
                Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
            }
            if self.text.0.len() >= TEXT_BYTES_ENOUGH && self.page.image().is_some() {
                break;
            }
        }
        // The page may have been cut.
        if let Some((name, _)) = &self.named {
            let name = name.clone();
            self.closes(&name);
        }
        self.page.text = summary(&self.text.0);
    }

    fn opens(&mut self, tag: &StartTag<()>) {
        let name: &[u8] = &tag.name;
        if let Some((skipped, open)) = &mut self.skipped {
            *open = open.saturating_add(usize::from(skipped == name));
            return;
        }
        if !is_within_words(name) {
            self.text.push(" ", TEXT_BYTES_ENOUGH);
        }
        match name {
            b"meta" => self.meta(tag),
            b"link" => self.link(tag),
            b"base" => drop(self.page.base.get_or_insert_with(|| attribute(tag, "href").into_owned())),
            b"img" => self.img(tag),
            b"title" | b"h1" | b"h2" | b"h3" => self.named = Some((name.to_owned(), Line::default())),
            b"svg" if tag.self_closing => {}
            _ if is_skipped(name) => self.skipped = Some((name.to_owned(), 1)),
            _ => {}
        }
    }

    fn closes(&mut self, name: &[u8]) {
        if let Some((skipped, open)) = &mut self.skipped {
            *open = open.saturating_sub(usize::from(skipped == name));
            if *open == 0 {
                self.skipped = None;
            }
            return;
        }
        if !is_within_words(name) {
            self.text.push(" ", TEXT_BYTES_ENOUGH);
        }
        if let Some((named, Line(text, _))) = self.named.take_if(|(named, _)| named == name)
            && !text.is_empty()
        {
            let slot = if named == b"title" { &mut self.page.title } else { &mut self.page.heading };
            slot.get_or_insert_with(|| cut(&text));
        }
    }

    fn says(&mut self, text: &str) {
        if self.skipped.is_some() {
            return;
        }
        let mut is_title = false;
        if let Some((named, line)) = &mut self.named {
            line.push(text, VALUE_CHARS_MAX * 4);
            is_title = named == b"title";
        }
        if !is_title {
            self.text.push(text, TEXT_BYTES_ENOUGH);
        }
    }

    fn meta(&mut self, tag: &StartTag<()>) {
        let content = cut(&attribute(tag, "content"));
        if content.is_empty() {
            return;
        }
        // Some write the one and mean the other.
        for named_by in ["property", "name", "itemprop"] {
            let name = attribute(tag, named_by).trim().to_ascii_lowercase();
            let slot = match &*name {
                "og:image" | "og:image:url" | "og:image:secure_url" => &mut self.page.image,
                "og:image:alt" => &mut self.page.image_alt,
                "description" => &mut self.page.description,
                "image" if named_by == "itemprop" => &mut self.page.linked_image,
                // What it is we see ourselves.
                name if name.starts_with("og:image:") => continue,
                name if name.starts_with("og:") => {
                    insert(&mut self.page.properties, name, &content);
                    continue;
                }
                "twitter:image:src" => {
                    insert(&mut self.page.twitter, "twitter:image", &content);
                    continue;
                }
                name if name.starts_with("twitter:") => {
                    insert(&mut self.page.twitter, name, &content);
                    continue;
                }
                _ => continue,
            };
            slot.get_or_insert_with(|| content.clone());
        }
    }

    fn link(&mut self, tag: &StartTag<()>) {
        let href = attribute(tag, "href");
        if href.is_empty() {
            return;
        }
        let rel = attribute(tag, "rel").to_ascii_lowercase();
        let is = |wanted: &str| rel.split_ascii_whitespace().any(|rel| rel == wanted);
        if is("image_src") {
            self.page.linked_image.get_or_insert_with(|| href.clone().into_owned());
        }
        if is("alternate") && attribute(tag, "type").trim().eq_ignore_ascii_case("application/json+oembed") {
            self.page.oembed.get_or_insert_with(|| href.into_owned());
        }
    }

    fn img(&mut self, tag: &StartTag<()>) {
        let src = attribute(tag, "src");
        let is_small =
            |side: &str| attribute(tag, side).trim().parse().is_ok_and(|pixels: u32| pixels < IMAGE_PIXELS_MIN);
        let is_data = src.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
        if !src.is_empty() && !is_data && !is_small("width") && !is_small("height") {
            self.page.first_image.get_or_insert_with(|| src.into_owned());
        }
    }
}

/// Of several properties of one name the first counts most. "Arrays".
fn insert(properties: &mut BTreeMap<String, String>, name: &str, content: &str) {
    if properties.len() < PROPERTIES_MAX && name.len() <= NAME_BYTES_MAX && !properties.contains_key(name) {
        properties.insert(name.to_owned(), content.to_owned());
    }
}

fn attribute<'a>(tag: &'a StartTag<()>, name: &str) -> Cow<'a, str> {
    tag.attributes.get(name.as_bytes()).map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value))
}

/// What is no part of what a page has to say.
fn is_skipped(name: &[u8]) -> bool {
    matches!(
        name,
        b"script"
            | b"style"
            | b"noscript"
            | b"template"
            | b"iframe"
            | b"svg"
            | b"video"
            | b"audio"
            | b"canvas"
            | b"object"
            | b"nav"
            | b"header"
            | b"footer"
            | b"aside"
            | b"button"
            | b"select"
            | b"textarea"
            | b"dialog"
    )
}

/// What does not end a word.
fn is_within_words(name: &[u8]) -> bool {
    matches!(
        name,
        b"a" | b"abbr"
            | b"b"
            | b"bdi"
            | b"bdo"
            | b"cite"
            | b"code"
            | b"em"
            | b"font"
            | b"i"
            | b"kbd"
            | b"mark"
            | b"q"
            | b"s"
            | b"small"
            | b"span"
            | b"strong"
            | b"sub"
            | b"sup"
            | b"time"
            | b"u"
            | b"var"
            | b"wbr"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use url::Url;

    use super::{Page, TEXT_CHARS_MAX, VALUE_CHARS_MAX};

    fn read(html: &str) -> (Value, Option<String>) {
        let page = Page::read(html);
        let image = page.image().map(str::to_owned);
        (Value::Object(page.properties()), image)
    }

    #[test]
    fn a_page_that_speaks_open_graph_is_taken_at_its_word() {
        let html = r#"<!DOCTYPE html><html><head><title>Not this</title>
            <meta property="og:title" content="A &amp; B &#x1F600;"><meta property="og:title" content="second">
            <meta property=og:type content=article><META NAME='OG:Description' CONTENT=' in
                two  lines '>
            <meta property="og:image" content="/a.png"><meta property="og:image:width" content="9">
            <meta property="og:image" content="/b.png"><meta property="og:image:alt" content="A cat">
            <meta property="og:locale" content=""><meta name="description" content="not this">
            <body><h1>Nor this</h1><img src=c.png>"#;
        let said = json!({
            "og:title": "A & B 😀", "og:type": "article", "og:description": "in two lines", "og:image:alt": "A cat",
        });
        assert_eq!(read(html), (said, Some("/a.png".to_owned())));
        assert!(Page::read(html).says_all());
    }

    #[test]
    fn other_pages_are_read_as_people_read_them() {
        for (html, title, description, image) in [
            ("<title> A\n<b>title</title><p>Text", "A <b>title", "Text", None),
            ("<svg><title>no</title></svg><h2>One<br>two</h2><p>th<b>re</b>e", "Onetwo", "One two three", None),
            ("<meta name=description content=Said><p>Text<img src=a.png>", "", "Said", Some("a.png")),
            (
                "<meta name=twitter:title content=T><meta name=twitter:image:src content=t.png><title>no",
                "T",
                "",
                Some("t.png"),
            ),
            ("<link rel='icon image_src' href=l.png><img src=a.png><p>x", "", "x", Some("l.png")),
            ("<meta itemprop=image content=i.png><img src=a.png>", "", "", Some("i.png")),
            (
                "<img src=data:image/png,x><img src=1.gif width=1 height=1><img src='' ><img src=b.png>",
                "",
                "",
                Some("b.png"),
            ),
            (
                "<nav>no<nav>no</nav>no</nav>yes<script>if (a<b) no</script><style>no</style><!-- no --> too",
                "",
                "yes too",
                None,
            ),
            ("<header><h1>no</h1></header><textarea><p>no</textarea><p>yes", "", "yes", None),
            ("just words", "", "just words", None),
            ("<title>cut sho", "cut sho", "", None),
            ("", "", "", None),
        ] {
            let (said, found) = read(html);
            let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(
                (text("og:title"), text("og:description")),
                (title.to_owned(), description.to_owned()),
                "{html}"
            );
            assert_eq!(found.as_deref(), image, "{html}");
        }
    }

    #[test]
    fn what_is_passed_on_is_bounded() {
        let many: String = (0..500).map(|number| format!("<meta property=og:x{number} content=y>")).collect();
        assert_eq!(read(&many).0.as_object().unwrap().len(), 50);
        let long = format!("<meta property=og:title content='{}'><p>{}", "ä".repeat(5_000), "word ".repeat(5_000));
        let (said, _) = read(&long);
        assert_eq!(said["og:title"].as_str().unwrap().chars().count(), VALUE_CHARS_MAX);
        let description = said["og:description"].as_str().unwrap();
        assert!(description.ends_with("word…") && description.chars().count() <= TEXT_CHARS_MAX + 1, "{description}");
        let long_name = format!("<meta property=og:{} content=x>", "x".repeat(100));
        assert_eq!(read(&long_name).0, json!({}));
    }

    #[test]
    fn however_deep_and_broken_it_is_read() {
        let deep = format!("{}<title>Deep</title>{}", "<div>".repeat(200_000), "<nav>".repeat(200_000));
        assert_eq!(read(&deep).0["og:title"], "Deep");
        for html in
            ["<", "<a b", "<title>never ends", "</p></p></nav>x", "<!--", "<a a=1 a=2 =", "&#xffffff;&", "<![CDATA["]
        {
            read(html);
        }
        let attributes: String = (0..100_000).map(|number| format!(" a{number}=x")).collect();
        read(&format!("<p{attributes}>"));
    }

    #[test]
    fn links_lead_from_the_page_or_its_base() {
        let url = Url::parse("https://a.org/b/c").unwrap();
        for (html, link, expected) in [
            ("", "d.png", Some("https://a.org/b/d.png")),
            ("", "//b.org/d.png", Some("https://b.org/d.png")),
            ("<base href='/x/'><base href='/y/'>", "d.png", Some("https://a.org/x/d.png")),
            ("<base href='http://['>", "d.png", Some("https://a.org/b/d.png")),
            ("<base href='ftp://c.org/'>", "d.png", None),
            ("", "javascript:alert(1)", None),
            ("", "http://me:secret@a.org/", Some("http://a.org/")),
        ] {
            let resolved = Page::read(html).resolves(&url, link);
            assert_eq!(resolved.as_ref().map(Url::as_str), expected, "{html} {link}");
        }
    }
}
