//! Where the numbers act, measured before any of them is trained (design, "Placement before training").
//!
//! | file | one idea |
//! |---|---|
//! | `scout` | the gradient at v = 0, measured on sampled answers |
//! | `mean_gradient` | its mean, its variance, its signal-to-noise ratio |
//! | `sets` | the roles and layers a header can name, and what they hold of it |
//! | `modules` | those of them that hold most for their number |
//! | `seed_search` | the projection that captures most of theirs |

pub mod mean_gradient;
pub mod modules;
pub mod scout;
pub mod seed_search;
mod sets;
