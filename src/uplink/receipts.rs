//! Receipts that come as commands: the same word as on the topic `receipt`, and an answer to it.
//!
//! The commands come in over a line of their own and are done by a task of their own; what is waiting
//! for receipts is known to the delivery only. So a receipt goes there as an order with the way back.
//! The channel outlives the uplink, which begins anew with another broker.
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::config::AckBy;
use super::delivery::{Deliverable, Delivery};
use super::payload::Receipt;
use crate::base::time::MonoMicros;

/// Receipts that may wait for the uplink; of more the sender is told that it is busy.
const WAITING: usize = 8;

/// What came of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipted {
    /// It counts.
    Done {
        /// Records that have left the outbox for it.
        freed: usize,
        /// Records that it excepts and that are sent again.
        again: usize,
    },
    /// It names a record that never was.
    NeverIssued {
        /// Which.
        seq: u64,
        /// The newest that is.
        newest: u64,
    },
    /// Here the broker's acknowledgement frees records, and a receipt frees none.
    ByBroker,
}

/// A receipt on its way to the delivery.
#[derive(Debug)]
pub struct ReceiptOrder {
    /// What the centre has.
    pub receipt: Receipt,
    /// What came of it.
    pub reply: oneshot::Sender<Receipted>,
}

/// The uplink's end; shared by those that follow one another.
pub type ReceiptOrders = Arc<Mutex<mpsc::Receiver<ReceiptOrder>>>;

/// Both ends.
pub fn receipt_orders() -> (mpsc::Sender<ReceiptOrder>, ReceiptOrders) {
    let (orders, order) = mpsc::channel(WAITING);
    (orders, Arc::new(Mutex::new(order)))
}

impl ReceiptOrder {
    /// Does it and answers; what leaves the outbox. `newest` is the newest record that was ever
    /// issued.
    pub(super) fn settle<R: Deliverable>(
        self,
        ack: AckBy,
        delivery: &mut Delivery<R>,
        newest: u64,
        now: MonoMicros,
    ) -> Vec<u64> {
        let Receipt { through, except } = &self.receipt;
        let mut freed = Vec::new();
        let highest = except.iter().copied().max().unwrap_or(0).max(*through);
        // Numbers begin at 1.
        let unknown = if except.contains(&0) {
            Some(0)
        } else {
            Some(highest).filter(|seq| *seq > newest)
        };
        let receipted = match (ack, unknown) {
            (AckBy::Broker, _) => Receipted::ByBroker,
            (AckBy::Centre, Some(seq)) => Receipted::NeverIssued { seq, newest },
            (AckBy::Centre, None) => {
                let once: BTreeSet<u64> = except.iter().copied().collect();
                let again = once.iter().filter(|s| delivery.awaits_receipt(**s)).count();
                match delivery.receipt(*through, except, newest, now) {
                    Ok(seqs) => freed = seqs,
                    // Judged above.
                    Err(e) => tracing::warn!(err = %e, "receipt ignored"),
                }
                Receipted::Done {
                    freed: freed.len(),
                    again,
                }
            }
        };
        // Who asked may have given up; it counts all the same.
        let _gone = self.reply.send(receipted).is_err();
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::delivery::{Limits, Tag};

    #[derive(Clone, Debug)]
    struct Numbered(u64);

    impl Deliverable for Numbered {
        fn seq(&self) -> u64 {
            self.0
        }

        fn class(&self) -> u8 {
            2
        }

        fn topic_key(&self) -> &'static str {
            "finding/x"
        }

        fn note_newer(&mut self, _newer: &Self) {}
    }

    /// Records 1 to 4, all taken by the broker.
    fn delivery(ack: AckBy) -> Delivery<Numbered> {
        let limits = Limits {
            records: 8,
            publishes: 20,
            loaded: 64,
            refusals: 3,
        };
        let mut delivery = Delivery::new(limits, ack);
        delivery.connected(4, 100);
        for seq in 1..=4 {
            delivery.offer(Numbered(seq));
            let (record, _) = delivery.next(MonoMicros(1)).unwrap();
            let tag = Tag::Record(record.0);
            delivery.fed(tag);
            delivery.sent(seq as u16).unwrap();
            delivery.acked(seq as u16, 0, MonoMicros(2));
        }
        delivery
    }

    fn settle(
        delivery: &mut Delivery<Numbered>,
        ack: AckBy,
        through: u64,
        except: &[u64],
    ) -> (Vec<u64>, Receipted) {
        let (reply, mut answer) = oneshot::channel();
        let receipt = Receipt {
            through,
            except: except.to_vec(),
        };
        let freed = ReceiptOrder { receipt, reply }.settle(ack, delivery, 4, MonoMicros(3));
        (freed, answer.try_recv().unwrap())
    }

    #[test]
    fn a_receipt_frees_what_it_names_and_sends_again_what_it_excepts() {
        let mut delivery = delivery(AckBy::Centre);
        let done = |freed, again| Receipted::Done { freed, again };
        let centre = AckBy::Centre;
        let first = settle(&mut delivery, centre, 3, &[2, 2]);
        assert_eq!(first, (vec![1, 3], done(2, 1)));
        // It is on its way already, and the others have gone.
        let again = settle(&mut delivery, centre, 3, &[2]);
        assert_eq!(again, (vec![], done(0, 0)));
        let (record, _) = delivery.next(MonoMicros(4)).unwrap();
        assert_eq!(record.0, 2);
    }

    #[test]
    fn what_was_never_issued_is_told_and_frees_nothing() {
        let mut delivery = delivery(AckBy::Centre);
        for (through, except, seq) in [(5, &[][..], 5), (4, &[7], 7), (4, &[0], 0)] {
            let settled = settle(&mut delivery, AckBy::Centre, through, except);
            let unknown = Receipted::NeverIssued { seq, newest: 4 };
            assert_eq!(settled, (vec![], unknown));
        }
        assert!((1..=4).all(|seq| delivery.awaits_receipt(seq)));
    }

    #[test]
    fn where_the_broker_frees_a_receipt_does_not() {
        let mut delivery = delivery(AckBy::Broker);
        let settled = settle(&mut delivery, AckBy::Broker, 9, &[]);
        assert_eq!(settled, (vec![], Receipted::ByBroker));
    }
}
