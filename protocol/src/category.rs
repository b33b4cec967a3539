//! What kind of purpose a job serves: a visitor may agree to a kind, and a site's owner chooses kinds.

use minicbor::{Decode, Encode};

/// A kind of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[cbor(index_only)]
pub enum Category {
    #[n(0)]
    Research,
    #[n(1)]
    Education,
    #[n(2)]
    PublicGood,
    #[n(3)]
    Commercial,
    #[n(4)]
    Demo,
}

impl Category {
    /// All of them, in the order of the specification.
    pub const ALL: [Category; 5] =
        [Category::Research, Category::Education, Category::PublicGood, Category::Commercial, Category::Demo];

    /// The name in the store and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Category::Research => "research",
            Category::Education => "education",
            Category::PublicGood => "public_good",
            Category::Commercial => "commercial",
            Category::Demo => "demo",
        }
    }

    /// The category with this name.
    pub fn parse(name: &str) -> Option<Category> {
        Category::ALL.into_iter().find(|category| category.name() == name)
    }
}
