//! What a run was like: event files for TensorBoard while it goes, a page of HTML when it is over.
//!
//! Both are made of the lines of the journal and say nothing that is not in them.

mod chart;
mod curves;
mod event;
#[cfg(test)]
mod example;
mod facts;
mod figures;
mod layout;
mod markup;
mod metric;
pub mod page;
mod policy;
pub mod scale;
pub mod story;
pub mod tensorboard;
mod texts;
mod tfrecord;
