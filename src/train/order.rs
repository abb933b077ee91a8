//! The order problems are taken in: every problem once before any comes again.

use crate::policy::sampling::uniform;

/// The stream of random numbers that shuffles, apart from those that sample tokens.
const SHUFFLE: u64 = u64::MAX;

/// An endless, shuffled pass over `count` problems.
#[derive(Debug, Clone)]
pub struct Order {
    count: usize,
    seed: u64,
    epoch: u64,
    left: Vec<usize>,
}

impl Order {
    /// Starts before the first pass.
    pub fn new(count: usize, seed: u64) -> Self {
        Self { count, seed, epoch: 0, left: Vec::new() }
    }

    /// As far as after `taken` problems.
    pub fn after(count: usize, seed: u64, taken: u64) -> Self {
        let mut order = Self::new(count, seed);
        if count > 0 {
            let size = count as u64;
            order.epoch = taken / size;
            // At the end of a pass the next begins only when it is asked for.
            let within = (taken % size) as usize;
            if within > 0 {
                order.refill();
                order.left.truncate(count - within);
            }
        }
        order
    }

    /// The next `n` problems; nothing if there are none at all.
    pub fn take(&mut self, n: usize) -> Vec<usize> {
        let mut taken = Vec::with_capacity(n);
        while taken.len() < n && self.count > 0 {
            if self.left.is_empty() {
                self.refill();
            }
            taken.extend(self.left.pop());
        }
        taken
    }

    fn refill(&mut self) {
        self.left = (0..self.count).collect();
        for i in (1..self.count).rev() {
            let u = uniform(self.seed, SHUFFLE, self.epoch, i as u64);
            self.left.swap(i, ((u * (i + 1) as f64) as usize).min(i));
        }
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_comes_once_before_any_comes_again() {
        let mut order = Order::new(7, 3);
        for _ in 0..3 {
            let mut pass = order.take(7);
            pass.sort_unstable();
            assert_eq!(pass, (0..7).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_order_depends_on_the_seed_and_on_nothing_else() {
        let whole = Order::new(50, 1).take(50);
        let mut parts = Order::new(50, 1);
        assert_eq!(whole, [parts.take(20), parts.take(30)].concat());
        assert_ne!(whole, Order::new(50, 2).take(50));
    }

    #[test]
    fn an_order_taken_up_again_goes_on_as_if_it_had_not_been_left() {
        for taken in [0, 1, 6, 7, 8, 14, 25] {
            let mut whole = Order::new(7, 3);
            whole.take(taken);
            let mut again = Order::after(7, 3, taken as u64);
            assert_eq!(again.take(10), whole.take(10), "{taken}");
        }
        assert!(Order::after(0, 1, 5).take(1).is_empty());
    }

    #[test]
    fn no_problems_give_nothing() {
        assert!(Order::new(0, 1).take(3).is_empty());
    }
}
