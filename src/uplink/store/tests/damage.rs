//! Files that are not what they were: every page of them, the log, and a power cut while one is mended.
use super::*;

/// Overwrites the pages of one table with rubbish, so that the rest of the file stays readable.
fn damage(bench: &Bench, table: &str) {
    let sql = bench.sql();
    // One file, without a log that would cover the damage.
    sql.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let page: i64 = sql
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .unwrap();
    let find = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let root: i64 = sql.query_row(find, [table], |row| row.get(0)).unwrap();
    drop(sql);
    let mut bytes = std::fs::read(bench.path()).unwrap();
    let start = ((root - 1) * page) as usize;
    bytes[start..start + page as usize].fill(0xff);
    std::fs::write(bench.path(), bytes).unwrap();
}

#[test]
fn what_is_readable_in_a_damaged_file_is_saved_and_the_counters_go_on() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=5 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    wait(store.park(4, "refused".to_owned())).unwrap();
    wait(store.acked(vec![1])).unwrap();
    let epoch = wait(store.next_epoch()).unwrap();
    bench.close();
    damage(&bench, "ledger_open");
    let store = bench.open();
    assert_eq!(bench.set_aside().len(), 1);
    assert_eq!(waiting(&store), [2, 3, 5]);
    assert_eq!((store.stats().records, store.stats().parked), (4, 1));
    assert_eq!(wait(store.next_epoch()).unwrap(), epoch + 1);
    // Number 6 is the word on it.
    assert_eq!(store.commit_finding(finding(6, 1, FIRST)).unwrap(), 7);
    assert_eq!(
        store.commit_finding(finding(2, 1, FIRST)).unwrap(),
        2,
        "still known"
    );
}

#[test]
fn a_lost_outbox_table_is_filled_again_from_the_ledger() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=3 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    bench.close();
    damage(&bench, "outbox");
    let store = bench.open();
    assert_eq!(bench.set_aside().len(), 1);
    assert_eq!(waiting(&store), [1, 2, 3]);
    assert_eq!(store.open_findings().unwrap().len(), 3);
    assert_eq!(store.commit_finding(finding(4, 1, FIRST)).unwrap(), 5);
}

#[test]
fn damage_while_running_is_noticed_by_a_write_and_the_commit_still_succeeds() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=3 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    let epoch = wait(store.next_epoch()).unwrap();
    damage(&bench, "ledger");
    assert_eq!(store.commit_finding(finding(4, 1, FIRST)).unwrap(), 5);
    assert_eq!(bench.set_aside().len(), 1);
    assert_eq!(waiting(&store), [1, 2, 3, 5]);
    assert!(wait(store.next_epoch()).unwrap() > epoch);
    assert_eq!(bench.metrics.total(Metric::StoreFailures), 1);
}

#[test]
fn damage_while_running_is_noticed_by_a_read_too() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=3 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    damage(&bench, "outbox");
    // Whatever the read finds, it must not fail for ever.
    let before = *store.resent().borrow();
    assert_eq!(waiting(&store), [1, 2, 3]);
    assert_eq!(bench.set_aside().len(), 1);
    assert_eq!(store.commit_finding(finding(4, 1, FIRST)).unwrap(), 5);
    assert_eq!(waiting(&store), [1, 2, 3, 5]);
    // Whoever has read past them already must read again.
    assert!(store.resent().borrow().times > before.times);
}

#[test]
fn a_damaged_file_that_cannot_be_set_aside_is_tried_again_and_nothing_is_lost() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=3 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    damage(&bench, "ledger");
    // Keeps the log from being removed, and a directory keeps it from being moved.
    let watcher = bench.sql();
    watcher
        .query_row("SELECT count(*) FROM meta", [], |row| row.get::<_, i64>(0))
        .unwrap();
    let name = format!(".corrupt-{}-wal", T.0 / 1_000_000);
    let obstacle = beside(&bench.path(), &name);
    std::fs::create_dir(&obstacle).unwrap();
    for _ in 0..2 {
        let refused = store.commit_finding(finding(4, 1, FIRST)).unwrap_err();
        assert!(
            matches!(refused, StoreError::Corrupt(_)) && refused.is_temporary(),
            "{refused:?}"
        );
        assert!(wait(store.read(Cursor::default(), 10)).is_err());
        assert!(
            bench.path().exists(),
            "the damaged file is back in its place"
        );
    }
    std::fs::remove_dir(&obstacle).unwrap();
    assert_eq!(store.commit_finding(finding(4, 1, FIRST)).unwrap(), 5);
    assert_eq!(waiting(&store), [1, 2, 3, 5]);
}

#[test]
fn a_second_damaged_file_does_not_replace_the_first_when_the_clock_stands_still() {
    let mut bench = Bench::new();
    for n in 1..=2 {
        let _made = bench.open();
        bench.close();
        std::fs::write(bench.path(), format!("rubbish {n}").repeat(1000)).unwrap();
    }
    bench.open();
    bench.close();
    std::fs::write(bench.path(), "rubbish 3".repeat(1000)).unwrap();
    bench.open();
    let first = |path: &PathBuf| std::fs::read_to_string(path).unwrap()[..9].to_owned();
    let aside: Vec<_> = bench.set_aside().iter().map(first).collect();
    assert_eq!(aside, ["rubbish 1", "rubbish 2", "rubbish 3"]);
}

#[test]
fn shelves_and_records_of_all_kinds_outlive_a_damaged_ledger() {
    let mut bench = Bench::new();
    let store = bench.open();
    store
        .commit(vec![
            Change::put(Shelf::Commands, "a", &1),
            Change::Record(notice(1)),
        ])
        .unwrap();
    store.commit_finding(finding(1, 1, FIRST)).unwrap();
    bench.close();
    damage(&bench, "ledger");
    let store = bench.open();
    assert_eq!(waiting(&store), [2, 1]);
    assert_eq!(shelved(&store).len(), 1);
    assert_eq!(bench.set_aside().len(), 1);
}

/// 80 records of findings and notices, some of several pages, of which some are gone and one is put
/// aside; one file, without a log.
fn full_file(bench: &mut Bench) -> BTreeMap<u64, String> {
    let store = bench.open();
    let mut payloads = BTreeMap::new();
    let mut commit = |body: RecordBody| {
        let seqs = store.commit(vec![Change::Record(body.clone())]).unwrap();
        payloads.insert(seqs[0], body.to_json());
    };
    for n in 1..=60_u32 {
        let mut data = finding((n % 40).into(), 1 + n / 40, FindingPhase::Updated);
        if n % 7 == 0 {
            data.scores = vec![0.5; 3000];
        }
        commit(RecordBody::Finding(Box::new(data)));
        if n % 3 == 0 {
            commit(notice(u128::from(n)));
        }
    }
    for n in 0..30 {
        let entry = Change::put(Shelf::Commands, format!("{n:03}"), &"x".repeat(400));
        store.commit(vec![entry]).unwrap();
    }
    let gone: Vec<u64> = (1..=80).filter(|n| n % 10 == 4).collect();
    for seq in &gone {
        payloads.remove(seq);
    }
    wait(store.acked(gone)).unwrap();
    wait(store.park(33, "refused".to_owned())).unwrap();
    wait(store.next_epoch()).unwrap();
    bench.close();
    assert!(!beside(&bench.path(), "-wal").exists());
    payloads
}

/// What SQLite says lies on each page: table or index, kind of page, cells.
fn pages(bench: &Bench) -> BTreeMap<usize, (String, String, usize)> {
    let sql = bench.sql();
    let mut statement = sql
        .prepare("SELECT pageno, name, pagetype, ncell FROM dbstat")
        .unwrap();
    let page = |row: &rusqlite::Row<'_>| {
        let cells: i64 = row.get(3)?;
        let page: i64 = row.get(0)?;
        Ok((page as usize, (row.get(1)?, row.get(2)?, cells as usize)))
    };
    let pages = statement.query_map([], page).unwrap();
    pages.map(Result::unwrap).collect()
}

#[test]
fn whichever_page_is_damaged_the_rest_is_saved_and_what_cannot_be_is_told() {
    let mut bench = Bench::in_memory();
    let payloads = full_file(&mut bench);
    let pages = pages(&bench);
    let whole = std::fs::read(bench.path()).unwrap();
    assert!(pages.len() > 30, "{} pages", pages.len());
    let newest = 80;
    for (page, (table, kind, cells)) in &pages {
        for fill in [0xff, 0x00, 0x5a] {
            let about = format!("page {page} ({kind} of {table}, {cells} cells) is {fill:#04x}");
            let mut bench = Bench::in_memory();
            std::fs::create_dir_all(bench.path().parent().unwrap()).unwrap();
            let mut bytes = whole.clone();
            bytes[(page - 1) * PAGE..page * PAGE].fill(fill);
            std::fs::write(bench.path(), &bytes).unwrap();
            let store = bench.open();
            // A page of text at the end of a long payload has no form that could be wrong: it is found
            // out when it is read, and only that record is put aside.
            let aside = bench.set_aside();
            let times = aside.len() as u64;
            assert!(times == 1 || (kind == "overflow" && fill == 0), "{about}");
            if let Some(aside) = aside.first() {
                assert_eq!(std::fs::read(aside).unwrap(), bytes, "{about}");
            }
            assert_eq!(bench.metrics.total(Metric::StoreDamaged), times, "{about}");
            let said = store.health().borrow().set_aside.len();
            assert_eq!(said, aside.len(), "{about}");
            wait(store.unpark_all()).unwrap();
            let batch = wait(store.read(Cursor::default(), 1000)).unwrap();
            let told: Vec<&Record> = batch.records.iter().filter(|r| is_damage(r)).collect();
            assert_eq!(told.len(), aside.len(), "{about}");
            let last = told.first().map_or(newest, |t| t.seq);
            assert!(
                told.is_empty() || last > newest,
                "{about}: number {last} again"
            );
            let there: BTreeMap<u64, String> = batch
                .records
                .iter()
                .filter(|r| !is_damage(r))
                .map(|r| (r.seq, r.body.to_json()))
                .collect();
            for (seq, payload) in &there {
                // One that was acknowledged may be sent again, from the ledger.
                let known = payloads.get(seq).is_none_or(|p| p == payload);
                assert!(known, "{about}: record {seq} has another payload");
            }
            let lost = payloads
                .keys()
                .filter(|seq| !there.contains_key(seq))
                .count();
            let most = match (table.as_str(), kind.as_str()) {
                ("outbox", "leaf") => *cells,
                ("outbox", "overflow") => 1,
                // Older revisions and notices; the ledger has the rest.
                ("outbox", _) => payloads.len() - 36,
                _ => 0,
            };
            assert!(
                lost <= most,
                "{about}: {lost} records are lost, at most {most} need be"
            );
            let seq = store.commit_finding(finding(999, 1, FIRST)).unwrap();
            assert_eq!(seq, last + 1, "{about}");
            bench.close();
        }
    }
}

#[test]
fn when_nothing_can_be_read_numbers_go_on_behind_those_in_reserve() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=3 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    let epoch = wait(store.next_epoch()).unwrap();
    bench.close();
    std::fs::write(bench.path(), "no database".repeat(5000)).unwrap();
    bench.clock.advance(Duration::from_secs(60));
    let store = bench.open();
    let batch = wait(store.read(Cursor::default(), 10)).unwrap();
    let [told] = batch.records.try_into().unwrap();
    let RecordBody::Notice(notice) = &told.body else {
        panic!("{told:?}");
    };
    let through = notice.data["through"].as_u64().unwrap();
    assert!((3..=RESERVE as u64).contains(&through), "{through}");
    assert_eq!(told.seq, through + 1);
    assert!(notice.text.contains(".corrupt-") && notice.text_zh.contains("已另行保存"));
    assert!(wait(store.next_epoch()).unwrap() > epoch);
    // And again: the reserve is ahead of what was given since.
    bench.close();
    std::fs::write(bench.path(), "no database".repeat(5000)).unwrap();
    let store = bench.open();
    assert!(*store.last_seq().borrow() > told.seq);
}

#[test]
fn numbers_in_reserve_stay_ahead_of_those_given() {
    let mut bench = Bench::in_memory();
    let store = bench.open();
    for n in 0..RESERVE as u64 + 10 {
        let changes = (0..20).map(|m| Change::Record(notice(u128::from(n * 20 + m))));
        store.commit(changes.collect()).unwrap();
        if n % 100 != 0 {
            continue;
        }
        let lock = File::open(beside(&bench.path(), ".lock")).unwrap();
        let given = *store.last_seq().borrow() as i64;
        assert!(reserved_in(&lock) > given, "{given}");
        if given > 3 * RESERVE {
            return;
        }
    }
}

#[test]
fn a_log_cut_at_any_byte_leaves_the_commits_before_it() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=12 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    let (db, log) = (bench.path(), beside(&bench.path(), "-wal"));
    let (db, log) = (std::fs::read(db).unwrap(), std::fs::read(log).unwrap());
    let mut most = 0;
    for cut in (0..=log.len()).step_by(509).chain([log.len()]) {
        let mut after = Bench::in_memory();
        std::fs::create_dir_all(after.path().parent().unwrap()).unwrap();
        std::fs::write(after.path(), &db).unwrap();
        std::fs::write(beside(&after.path(), "-wal"), &log[..cut]).unwrap();
        let store = after.open();
        let there = waiting(&store);
        let n = there.len() as u64;
        assert_eq!(there, (1..=n).collect::<Vec<_>>(), "cut at {cut}");
        assert!(n >= most, "cut at {cut}: {n} after {most}");
        most = n;
        assert_eq!(store.open_findings().unwrap().len() as u64, n);
        assert_eq!(store.commit_finding(finding(99, 1, FIRST)).unwrap(), n + 1);
        assert_eq!(
            after.set_aside(),
            [] as [PathBuf; 0],
            "cut at {cut}: it is whole"
        );
        after.close();
    }
    assert_eq!(most, 12);
}

#[test]
fn numbers_that_damage_made_up_are_not_gone_on_from() {
    let mut bench = Bench::in_memory();
    let store = bench.open();
    for n in 1..=5 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    bench.close();
    for made_up in [
        "UPDATE outbox SET seq = 9223372036854775807 WHERE seq = 5",
        "UPDATE meta SET value = 9223372036854775807",
    ] {
        bench.sql().execute_batch(made_up).unwrap();
    }
    damage(&bench, "ledger_open");
    let store = bench.open();
    assert_eq!(bench.set_aside().len(), 1);
    assert_eq!(waiting(&store), [1, 2, 3, 4]);
    let seq = store.commit_finding(finding(6, 1, FIRST)).unwrap();
    assert!(seq > 5 && seq <= 2 * RESERVE as u64, "{seq}");
    assert!(wait(store.next_epoch()).unwrap() < 1 << 40);
}

#[test]
fn a_value_that_is_no_text_or_no_number_costs_its_row_and_no_other() {
    let mut bench = Bench::new();
    let store = bench.open();
    for n in 1..=4 {
        store.commit_finding(finding(n, 1, FIRST)).unwrap();
    }
    for key in ["a", "b"] {
        let (shelf, body) = (Shelf::Commands, "{}".to_owned());
        let key = key.to_owned();
        store
            .commit(vec![Change::Put { shelf, key, body }])
            .unwrap();
    }
    bench
        .sql()
        .execute_batch(
            "UPDATE outbox SET kind = CAST(x'66ff' AS TEXT) WHERE seq = 1;
             UPDATE outbox SET revision = 'many' WHERE seq = 2;
             UPDATE ledger SET updated_utc = 'then' WHERE seq = 3;
             UPDATE shelf SET body = x'00' WHERE key = 'a';",
        )
        .unwrap();
    assert_eq!(waiting(&store), [3, 4]);
    assert_eq!(store.stats().parked, 2);
    let open = store.open_findings().unwrap();
    assert_eq!(open.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 4]);
    let gone = wait(store.read_finding(finding(3, 1, FIRST).finding)).unwrap();
    assert!(gone.is_none());
    assert_eq!(store.shelf(Shelf::Commands).unwrap().len(), 1);
}

#[test]
fn a_file_that_says_another_layout_than_it_has_is_set_aside_and_saved() {
    for (layout, what) in [(0, "a new one"), (1, "the one before")] {
        let mut bench = Bench::new();
        let store = bench.open();
        for n in 1..=3 {
            store.commit_finding(finding(n, 1, FIRST)).unwrap();
        }
        bench.close();
        bench
            .sql()
            .pragma_update(None, "user_version", layout)
            .unwrap();
        let store = bench.open();
        assert_eq!(bench.set_aside().len(), 1, "{what}");
        assert_eq!(waiting(&store)[..3], [1, 2, 3], "{what}");
        assert!(
            store.commit_finding(finding(4, 1, FIRST)).unwrap() > 3,
            "{what}"
        );
    }
}

/// Something done to the bytes of a file.
type Defect<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn a_first_page_that_sqlite_takes_and_we_cannot_use_is_set_aside_and_saved() {
    let flip = |bytes: &mut Vec<u8>, from: &[u8], to: &[u8]| {
        let at = bytes[..PAGE].windows(from.len()).position(|w| w == from);
        let at = at.unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
    };
    let cases: [(&str, Defect<'_>); 5] = [
        ("the version for writers", &|bytes| bytes[18] = 9),
        ("a column's name", &|bytes| {
            flip(bytes, b"parked TEXT", b"parkee");
        }),
        ("letters that are none", &|bytes| {
            flip(bytes, b"parked TEXT", b"park\xff\xfe");
        }),
        ("a column's type", &|bytes| {
            flip(bytes, b"created_utc INTEGER", b"created_utc INTEGES");
        }),
        ("what an index holds", &|bytes| {
            flip(bytes, b"ledger(seq) WHERE open", b"ledger(seq) WHERE seq ");
        }),
    ];
    for (what, change) in cases {
        let mut bench = Bench::new();
        let store = bench.open();
        for n in 1..=3 {
            store.commit_finding(finding(n, 1, FIRST)).unwrap();
        }
        bench.close();
        let mut bytes = std::fs::read(bench.path()).unwrap();
        change(&mut bytes);
        std::fs::write(bench.path(), bytes).unwrap();
        let store = bench.open();
        assert_eq!(bench.set_aside().len(), 1, "{what}");
        assert_eq!(waiting(&store)[..3], [1, 2, 3], "{what}");
        assert_eq!(store.open_findings().unwrap().len(), 3, "{what}");
        assert!(
            store.commit_finding(finding(4, 1, FIRST)).unwrap() > 3,
            "{what}"
        );
    }
}
