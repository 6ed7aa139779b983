//! The table. In each entry English comes first, then Chinese; what stands in braces is filled in.
use super::{Lang, Say, Texts};

/// All entries of one part: name, English, Chinese.
#[cfg(test)]
pub(super) type Entries = &'static [(&'static str, &'static str, &'static str)];

macro_rules! words {
    ($($(#[$about:meta])* $part:ident {
        $($name:ident $(($($arg:ident),+))? = $en:literal, $zh:literal;)+
    })+) => {
        $($(#[$about])* pub mod $part {
            use super::*;

            $(#[doc = concat!("*", $en, "*")]
            pub fn $name($($($arg: impl Say),+)?) -> Texts {
                Texts {
                    en: format!($en $($(, $arg = $arg.say(Lang::En))+)?),
                    zh: format!($zh $($(, $arg = $arg.say(Lang::Zh))+)?),
                }
            })+

            #[cfg(test)]
            pub(in super::super) const ENTRIES: Entries = &[$((stringify!($name), $en, $zh)),+];
        })+

        /// Every part with its entries.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, Entries)] = &[$((stringify!($part), $part::ENTRIES)),+];
    };
}

words! {
    /// What a violation code means.
    code {
        hat = "No hat", "未戴工作帽";
        mask = "No mask", "未戴口罩";
        smoking = "Smoking", "吸烟";
        rodent = "Rat or mouse", "发现老鼠";
        other_pest = "Other pest", "发现其他有害生物";
        phone = "Phone in use", "使用手机";
        uniform = "No work clothes", "未穿工作服";
        gloves = "No gloves", "未戴手套";
        bin = "Bin without lid", "垃圾桶未加盖";
        floor_water = "Water on the floor", "地面积水";
        smoke = "Smoke or fire", "烟雾或明火";
        unattended = "Fire without anybody near", "灶火无人看管";
        intruder = "Unknown person", "陌生人员进入";
        offline = "Camera not reachable", "摄像头无法连接";
        no_video = "Camera without video", "摄像头无视频";
        frozen = "Picture frozen", "画面静止";
        dark = "Picture too dark", "画面过暗";
        occluded = "View blocked, needs checking", "视野被遮挡，需检查";
        moved = "Another view than before, needs checking", "画面角度变化，需检查";
        defocused = "Picture less sharp, needs checking", "画面模糊，需检查";
        masked = "Privacy mask is on, needs checking", "隐私遮蔽已开启，需检查";
        clock = "Camera clock is off", "摄像头时间不准";
    }

    /// What a model's label means.
    label {
        person = "person", "人员";
        head = "head", "头部";
        face_bare = "face without mask", "未戴口罩的脸";
        face_masked = "face with mask", "戴口罩的脸";
        face_chin = "mask worn at the chin", "口罩未戴好的脸";
        rat = "rat or mouse", "老鼠";
        cat = "cat", "猫";
        dog = "dog", "狗";
        cigarette = "cigarette", "香烟";
        phone = "phone", "手机";
        head_bare = "head without hat", "未戴帽的头部";
        head_hat = "head with hat", "戴工作帽的头部";
        head_cover_other = "head with another cover", "戴其他头饰的头部";
        head_unclear = "head, cover unclear", "头部（帽子看不清）";
        smoking = "smoking", "吸烟动作";
    }

    /// Why nobody was watching.
    cause {
        offline = "camera not reachable", "摄像头无法连接";
        no_video = "no video", "无视频";
        connecting = "connecting", "正在连接";
        frozen = "picture frozen", "画面静止";
        dark = "too dark", "画面过暗";
        occluded = "view blocked", "视野被遮挡";
        moved = "another view", "画面角度变化";
        defocused = "not sharp", "画面模糊";
        overloaded = "too much to look at", "设备负荷过高";
        detector_down = "detector not running", "识别程序未运行";
        masked = "privacy mask on", "隐私遮蔽已开启";
        off_schedule = "no rule's hours", "非监测时段";
        stopped = "the program did not run", "程序未运行";
        ended = "the clip is over", "录像已播完";
        clock_step = "the clock was set", "时钟被调整";
    }

    /// A camera's state, and what there is to say of it.
    camera {
        online = "online", "在线";
        connecting = "connecting", "正在连接";
        unauthorised = "login refused", "登录被拒绝";
        offline = "offline", "离线";
        no_video = "no video", "无视频";
        frozen = "frozen", "画面静止";
        occluded = "view blocked", "视野被遮挡";
        dark = "too dark", "画面过暗";
        defocused = "not sharp", "画面模糊";
        moved = "view changed", "角度变化";
        masked = "privacy mask", "隐私遮蔽";
        clock_skew = "clock off", "时间不准";
        failed = "cannot decode", "无法解码";
        ended = "ended", "已播完";
        because(state, why) = "{state}: {why}", "{state}：{why}";
        decoding_fails = "decoding keeps failing; tried again in minutes", "解码持续失败，几分钟后重试";
        no_picture = "its stream gives no picture; look at it with `mingchu probe`", "视频流没有画面，可用 `mingchu probe` 检查";
        waits_for_key = "waiting for a picture that stands alone (GOP start)", "等待关键帧";
        is_frozen = "the picture does not change although the stream goes on", "视频流正常，但画面没有变化";
        is_dark = "the picture is too dark to see anything", "画面过暗，看不清内容";
        is_occluded = "the view is blocked or shows next to no detail; needs checking", "视野被遮挡或几乎没有细节，需检查";
        is_moved = "the camera shows another view than before; needs checking, zones may no longer fit", "画面角度与之前不同，需检查，区域可能不再对应";
        is_defocused = "the picture is less sharp than it was: focus or lens needs checking", "画面不如之前清晰，需检查焦距或镜头";
        is_masked = "the camera sends a plain picture, as with a privacy mask; needs checking", "摄像头输出纯色画面（如隐私遮蔽），需检查";
        clock_ahead(seconds) = "its clock is {seconds} s ahead of ours", "摄像头时间比本机快 {seconds} 秒";
        clock_behind(seconds) = "its clock is {seconds} s behind ours", "摄像头时间比本机慢 {seconds} 秒";
    }

    /// What a person should look at, in the site's status.
    problem {
        main_away(camera, what, why) = "main stream of {camera} {what} ({why}); clips come from the sub stream meanwhile", "{camera} 的主码流{what}（{why}），期间录像片段取自子码流";
        refuses_login = "refuses the login", "拒绝登录";
        is_away = "is away", "无法连接";
        has_no_video = "has no video", "没有视频";
        commands_not_subscribed = "broker refuses the subscription to command/+ or config/desired: allow it in the broker's access list", "消息服务器拒绝订阅 command/+ 或 config/desired，请在其访问列表中放行";
        receipts_not_subscribed = "broker refuses the subscription to receipts: allow it in the broker's access list", "消息服务器拒绝订阅回执，请在其访问列表中放行";
        command_flood = "commands come faster than they are looked at: some were dropped; see who publishes them", "命令来得太快，部分已丢弃，请检查是谁在发送";
        store_failing(why) = "the store cannot be written: {why}; look at the disk", "本地存储无法写入：{why}，请检查磁盘";
        store_set_aside(file) = "the store was damaged and {file} was set aside: look at the disk, keep a copy of that file for support, then move it away", "本地存储曾损坏，{file} 已另行保存：请检查磁盘，留存该文件备查后移走";
        outbox_over(have, most) = "{have} MiB of records wait to be sent and uplink.outbox_mb is {most}: no picture waits any more, records are never dropped, so the outbox goes on growing; see why they are not delivered", "待发记录已达 {have} MiB，超过 uplink.outbox_mb 的 {most}：待发图片已全部放弃，记录绝不丢弃，发件箱将继续增大，请检查无法送达的原因";
        commands_wait(why) = "commands wait for the disk: {why}", "命令等待写入磁盘：{why}";
        ends_for_fault(why) = "stopped because of a fault in this program, and starts again: {why}", "因本程序内部故障停止，将自动重新启动：{why}";
        findings_wait(why) = "findings wait in memory: {why}", "发现的问题暂存内存，等待写入磁盘：{why}";
        no_evidence(why) = "findings go without evidence: {why}", "发现的问题没有证据可附：{why}";
        no_pictures(why) = "findings go without pictures: {why}; look at the disk", "发现的问题没有图片可附：{why}，请检查磁盘";
        no_status_page(address, why) = "no status page at {address}: {why}; see what else listens there, or set status.listen", "状态页无法在 {address} 监听：{why}，请检查端口占用或设置 status.listen";
        evidence(why) = "evidence: {why}", "证据：{why}";
        config_refused(count, first) = "a new config is refused ({count} mistakes), the one before stays: {first}", "新配置被拒绝（{count} 处错误），继续使用原配置：{first}";
        nobody_subscribes(topic) = "nobody subscribes to {topic} at the broker: is the centre up? its records wait", "消息服务器上无人订阅 {topic}，请确认中心是否在运行；相关记录等待发送";
        topic_refused(topic, reason) = "broker refuses {topic} ({reason}): see its access list; its records wait", "消息服务器拒绝 {topic}（{reason}），请检查其访问列表；相关记录等待发送";
        refused(what, reason) = "broker refuses {what} ({reason}): see its access list", "消息服务器拒绝 {what}（{reason}），请检查其访问列表";
        parked(records) = "{records} records could not be delivered and are put aside", "{records} 条记录无法送达，已另行保存";
        receipt_ignored(why) = "centre's receipt is ignored: {why}", "中心的回执被忽略：{why}";
    }

    /// Notices to the centre.
    notice {
        not_watched(from, until, cause) = "nothing was watched from {from} to {until}: {cause}", "{from} 至 {until} 未监测：{cause}";
        evidence_removed(files, findings, limit) = "{files} files of {findings} findings removed to stay within evidence.{limit}", "为不超过 evidence.{limit}，已删除 {findings} 个问题的 {files} 个文件";
        store_damaged(file, through) = "the site's store was damaged and {file} was set aside: records up to {through} that the centre does not have and that do not come any more are lost", "本地存储曾损坏，{file} 已另行保存：编号 {through} 及以前、中心尚未收到且不再到来的记录已丢失";
        outbox_shed(count, kind, class, from, to) = "{count} files ({kind}) of class {class} findings, queued from {from} to {to}, are not sent to stay within uplink.outbox_mb; the site still has them while evidence.max_mb allows", "为不超过 uplink.outbox_mb，{from} 至 {to} 排队的 {class} 级问题的 {count} 个 {kind} 文件不再发送；在 evidence.max_mb 允许的范围内本机仍有保存";
        not_sent(kind, finding, why) = "{kind} of finding {finding} is not sent: {why}", "问题 {finding} 的 {kind} 未发送：{why}";
        config_unreadable(why) = "the config on config/desired is refused: {why}", "config/desired 上的配置被拒绝：{why}";
        back = "back", "后退";
        forward = "forward", "前进";
        went(side, by) = "went {side} by at least {by} while the site was stopped", "在停机期间{side}至少 {by}";
        stepped(side, by) = "was stepped {side} by {by}", "被调整，{side} {by}";
        stepped_often(count, side, by) = "was stepped {count} times, together {side} by {by}", "调整 {count} 次，共{side} {by}";
        clock_stepped(what, from, to) = "the site's clock {what}, from {from} to {to}; findings, coverage and evidence recorded before are kept with the times they have", "本机时钟{what}，从 {from} 到 {to}；此前记录的问题、监测时间和证据均按原时间保留";
        seconds(seconds) = "{seconds} s", "{seconds} 秒";
        minutes(minutes, seconds) = "{minutes} min {seconds} s", "{minutes} 分 {seconds} 秒";
        hours(hours, minutes, seconds) = "{hours} h {minutes} min {seconds} s", "{hours} 小时 {minutes} 分 {seconds} 秒";
        days(days, hours, minutes, seconds) = "{days} d {hours} h {minutes} min {seconds} s", "{days} 天 {hours} 小时 {minutes} 分 {seconds} 秒";
        mute_over(about) = "{about} is not muted any more: its time is over", "{about} 已恢复提醒：静音时间已到";
    }

    /// Answers to the centre's commands.
    command {
        outcome_done = "done", "完成";
        outcome_refused = "refused", "拒绝";
        outcome_expired = "expired", "过期";
        outcome_failed = "failed", "失败";
        outcome_unknown = "unknown", "未知";
        not_as_asked(why) = "not as it should be: {why}", "命令不符合要求：{why}";
        store_failed(why) = "the store does not answer: {why}", "本地存储没有响应：{why}";
        no_such_finding(id) = "there is no finding {id} here: never, or closed more than 90 days ago", "这里没有问题 {id}：从未有过，或已关闭超过 90 天";
        none_such(what, name, known) = "there is no {what} `{name}` here; there are {known}", "这里没有{what}“{name}”，现有：{known}";
        camera = "camera", "摄像头";
        rule = "rule", "规则";
        rule_for_code = "rule for code", "对应代码的规则";
        about_camera(name) = "camera {name}", "摄像头 {name}";
        about_rule(name) = "rule {name}", "规则 {name}";
        about_code(name) = "code {name}", "代码 {name}";
        about_site = "the whole site", "整个场所";
        mute_until(until, now) = "`until` is {until}: it must be after now ({now}) and within 24 h", "`until` 为 {until}：必须晚于现在（{now}）且在 24 小时内";
        mutes_full(most) = "{most} mutes are in force: end some first", "已有 {most} 个静音在生效，请先结束一些";
        muted(about, until, by, reason) = "{about} is muted until {until} by {by}: {reason}", "{about} 由 {by} 静音至 {until}：{reason}";
        no_such_mute(id) = "no mute `{id}` is in force", "没有生效中的静音“{id}”";
        mutes_ended(count) = "{count} ended", "已结束 {count} 个";
        not_muted_any_more(about, by) = "{about} is not muted any more: {by}", "{about} 已恢复提醒：{by}";
        no_pictures_here = "unavailable: this version makes no pictures without faces", "不可用：此版本无法生成遮挡人脸的图片";
        no_picture(why) = "nothing to send: {why}", "没有可发送的内容：{why}";
        config_busy = "another config is being taken up: send it again later", "正在应用另一份配置，请稍后再发";
        config_not_taken = "the running site did not take it up", "运行中的站点没有应用它";
        config_failed(why) = "not taken up: {why}", "未能应用：{why}";
        config_not_newer(revision, known) = "revision {revision} is not newer than {known}, which is known already", "版本 {revision} 不比已知的 {known} 新";
        config_mistakes(count) = "{count} mistakes; the config before stays", "{count} 处错误，继续使用原配置";
        nothing_to_resend = "nothing of it is in the ledger any more", "台账中已没有这些记录";
        sent_again(count) = "{count} sent again", "已重新发送 {count} 条";
        receipts_wait = "other receipts wait for the line that sends records", "其他回执正在等待发送线路处理";
        receipted(freed, again) = "{freed} freed, {again} sent again", "已确认 {freed} 条，重新发送 {again} 条";
        never_issued(seq, newest) = "record {seq} was never issued here: the newest is {newest}", "记录 {seq} 从未发出，最新为 {newest}";
        freed_by_broker = "records are freed by the broker's acknowledgement here (`uplink.ack` is `broker`)", "本站点以消息服务器的确认为准（`uplink.ack` 为 `broker`）";
        no_line = "the line that sends records is not there: send it again later", "发送线路不可用，请稍后再发";
        nobody_looks = "no rule looks for it", "没有规则监测此项";
        seen = "it was seen", "再次看到";
        not_seen = "the camera watched, and it was not seen", "摄像头正常监测，未再看到";
        off_hours = "no rule that looks for it is within its hours: no judgement", "监测此项的规则均不在时段内，无法判断";
        not_watched_enough(watched, seconds, needed) = "the camera was watched for {watched} of {seconds} s ({needed} ms are needed to decide): no judgement", "{seconds} 秒内仅监测了 {watched} 秒（判断需要 {needed} 毫秒），无法判断";
        too_late(now) = "it came too late: here it is {now}", "命令到达过晚：本机时间为 {now}";
        expired_before = "it expired before it could be done", "执行之前已过期";
        too_many(most) = "{most} such commands are under way: send it again with another id", "已有 {most} 个此类命令在执行，请换一个编号再发";
    }

    /// `mingchu tail`, and the demo.
    tail {
        unknown_topic(topic) = "unknown topic {topic}", "未知主题 {topic}";
        unreadable(topic, why) = "unreadable message on {topic}: {why}", "{topic} 上的消息无法读取：{why}";
        evidence(n, finding, bytes) = "evidence {n} of {finding}, {bytes} bytes", "{finding} 的证据 {n}，{bytes} 字节";
        command(name) = "command {name}", "命令 {name}";
        receipt = "receipt", "回执";
        config_desired = "config desired", "期望配置";
        watched = "watched", "已监测";
        blind(cause, seconds) = "({cause} {seconds} s)", "（{cause} {seconds} 秒）";
        online = "ONLINE", "在线";
        offline = "OFFLINE", "离线";
        camera_one = "1 camera", "1 个摄像头";
        cameras(count) = "{count} cameras", "{count} 个摄像头";
        waiting(records) = "{records} records waiting", "{records} 条记录待发";
        refused_for_good(records) = "{records} refused for good", "{records} 条被永久拒收";
        nobody_watches = "nobody is watching there", "该处目前无人监测";
        camera(name) = "camera {name}", "摄像头 {name}";
        config_in_force(revision, parts) = "config {revision} in force: {parts}", "配置 {revision} 已生效：{parts}";
        refused = "REFUSED", "拒绝";
        config(revision) = "config {revision}", "配置 {revision}";
        found = "FOUND", "发现";
        goes_on = "goes on", "持续";
        closed = "closed", "结束";
        again = "AGAIN", "再现";
        lasted(seconds) = "lasted {seconds} s", "持续 {seconds} 秒";
        class(class) = "class {class}", "{class} 级";
        late = "delivered late", "延迟送达";
        telemetry(text) = "telemetry  {text}", "遥测  {text}";
        figures(up, decoded, analysed, replaced, waiting) = "up {up} s, {decoded} pictures decoded, {analysed} analysed, {replaced} replaced, {waiting} records waiting", "已运行 {up} 秒，解码 {decoded} 帧，分析 {analysed} 帧，替换 {replaced} 帧，{waiting} 条记录待发";
    }

    /// What the demo prints around the operator's view.
    demo {
        camera = "camera", "摄像头";
        broker = "broker", "消息服务器";
        watch = "watch", "查看命令";
        below = "below", "下方";
        operator_sees(until) = "what an operator at the centre sees, {until}", "中心值守人员看到的内容，{until}";
        for_seconds(seconds) = "for {seconds} s", "持续 {seconds} 秒";
        until_ctrl_c = "until Ctrl-C", "按 Ctrl-C 结束";
        at_once = "second signal: ending at once", "再次收到信号，立即结束";
        broker_ended = "the demo's broker ended early; see the log", "演示用的消息服务器提前结束，请查看日志";
        after(seconds) = "after {seconds} s", "{seconds} 秒后";
        pictures = "pictures", "画面";
        seen(decoded, looked, still, replaced, dropped) = "{decoded} decoded, {looked} looked at, {still} left out as still, {replaced} replaced by a newer one, {dropped} units dropped", "解码 {decoded} 帧，分析 {looked} 帧，静止跳过 {still} 帧，被新帧替换 {replaced} 帧，丢弃 {dropped} 个单元";
        findings = "findings", "问题";
        changes(opened, updated, closed) = "{opened} opened, {updated} updated, {closed} closed", "打开 {opened}，更新 {updated}，关闭 {closed}";
        delivery = "delivery", "送达";
        delivered(acked, waiting) = "{acked} acknowledged by the broker, {waiting} waiting", "消息服务器已确认 {acked} 条，{waiting} 条待发";
        cost = "cost", "开销";
        of_one_core(share) = "{share} of one core, for camera, broker and daemon together", "占一个核心的 {share}（含摄像头、消息服务器和守护程序）";
    }

    /// Why there is no finding: what a rule lacked.
    why {
        off_until(until) = "the rule does not watch until {until}", "该规则在 {until} 之前不监测";
        off_for_a_year = "the rule does not watch within a year", "该规则一年内不监测";
        nothing = "nothing is seen", "没有看到任何目标";
        only_others(others) = "nothing of its labels is seen ({others} of others)", "没有看到该规则的目标（其他目标 {others} 个）";
        unconfirmed(seen) = "not seen often enough to count ({seen} so far)", "出现次数不足（目前 {seen} 次）";
        lost = "not seen in this picture", "本帧中未看到";
        outside_zone = "outside the zone", "在区域之外";
        excluded(area) = "in excluded area {area}", "在排除区域 {area} 内";
        entering(inside, needs) = "in the zone for {inside} of {needs} pictures", "进入区域 {inside} 帧，需要 {needs} 帧";
        few_samples(have, needs) = "{have} of {needs} pictures", "{have} 帧，需要 {needs} 帧";
        low_score(median, threshold, samples) = "{median} is below {threshold} (median of {samples})", "{median} 低于 {threshold}（{samples} 帧中位数）";
        few_hits(hits, needs, threshold, samples) = "{hits} of {needs} scores reach {threshold} (window of {samples})", "需要 {needs} 个分数达到 {threshold}，实际 {hits} 个（窗口 {samples} 帧）";
        still(seconds, limit) = "has not moved for {seconds} s: from {limit} s on it is taken for a thing", "已 {seconds} 秒未移动：超过 {limit} 秒即视为物品";
        other_class = "this picture shows it as something else", "本帧中看起来是其他目标";
        shown_as(label) = "this picture shows it as {label}", "本帧中看起来是{label}";
        short(lasted, needs) = "has lasted {lasted} s of {needs} s", "已持续 {lasted} 秒，需要 {needs} 秒";
        shows_it = "shows the violation", "符合条件";
        is_open = "a finding is open", "已有未结束的问题";
        open_unseen(seconds) = "a finding is open, not seen for {seconds} s", "已有未结束的问题，{seconds} 秒未再看到";
        may_reopen(seconds) = "a return within {seconds} s reopens the last finding", "{seconds} 秒内再次出现将重新打开上一个问题";
        about(what, lacks) = "{what} {lacks}", "{what}：{lacks}";
        bracketed(said, note) = "{said} ({note})", "{said}（{note}）";
        track(label, track, score) = "{label} (track {track}), score {score}", "{label}（目标 {track}），分数 {score}";
        of_track(what, lacks) = "{what}: {lacks}", "{what}：{lacks}";
        shows_and_open = "shows the violation, and a finding is open", "符合条件，问题已打开";
        seen_were(labels) = "seen were {labels}", "看到的有：{labels}";
        nothing_followed = "nothing of its labels was followed in this clip", "该录像中没有跟踪到该规则的目标";
        no_picture = "no picture was analysed in this time", "这段时间没有分析任何画面";
        best(label, score, at, threshold) = "the most that the model gave is {label} {score} at {at} s, asked for are {threshold}", "模型给出的最高为 {at} 秒的{label} {score}，要求 {threshold}";
        at(seconds) = "at {seconds} s", "{seconds} 秒";
        nearest = "nearest", "最接近";
        nearest_at(seconds) = "nearest at {seconds} s", "最接近：{seconds} 秒";
        line(rule, when, said) = "{rule}  {when}: {said}", "{rule}  {when}：{said}";
        missed(from, to) = "missed {from} to {to} s", "漏报 {from} 至 {to} 秒";
        missed_nearest(from, to, at) = "missed {from} to {to} s, nearest at {at} s", "漏报 {from} 至 {to} 秒，最接近：{at} 秒";
    }

    /// What a replay prints.
    replay {
        clip(seconds, pictures, analysed) = "{seconds} s, {pictures} pictures, {analysed} analysed", "{seconds} 秒，{pictures} 帧，分析 {analysed} 帧";
        open_at_end(last) = "last seen {last} s, open at the end", "最后看到 {last} 秒，结束时仍未关闭";
        closed(last, at) = "last seen {last} s, closed {at} s", "最后看到 {last} 秒，{at} 秒关闭";
        found = "found", "发现";
        missed = "missed", "漏报";
        wrong = "false", "误报";
        short = "short", "过短";
        code = "code", "代码";
        events = "events", "事件";
        delay_s = "delay s", "延迟秒";
        recall = "recall", "召回率";
        precision = "precision", "准确率";
        late(seconds) = ", {seconds} s after it began", "，开始后 {seconds} 秒";
        legend(clips, seconds) = "{clips} clips, {seconds} s; recall: of the events, those found; precision: of the findings, those with an event;\nin brackets where they lie with 95 % certainty; delay: median of the found ones, from the event's begin to the finding", "{clips} 段录像，{seconds} 秒；召回率：事件中被发现的比例；准确率：发现中确有事件的比例；\n括号内为 95 % 置信区间；延迟：从事件开始到发现的中位数";
        span(from, to) = "{from} to {to} s", "{from} 至 {to} 秒";
    }

    /// The replay's report.
    report {
        title = "mingchu: what was found", "明厨：发现的问题";
        heading = "What was found in the recordings", "录像中发现的问题";
        finding_one = "1 finding", "1 个问题";
        findings_many(count) = "{count} findings", "{count} 个问题";
        clip_one = "1 clip", "1 段录像";
        clips_many(count) = "{count} clips", "{count} 段录像";
        summary(findings, with, clips, length) = "{findings} in {with} of {clips}, {length} of video in all. Times count from the beginning of each clip.", "{clips}中有 {with} 段共发现 {findings}，总时长 {length}。时间从每段录像开头算起。";
        more(count) = "and {count} more, below with their clips", "另有 {count} 个，见下方各段录像";
        calm = "Nothing was found. The clips below say what came near.", "没有发现问题。下方各段录像列出了接近的情况。";
        not_replayed(clip, why) = "{clip} could not be replayed: {why}", "{clip} 无法回放：{why}";
        in_zone(zone) = " in {zone}", "（区域 {zone}）";
        sentence(what, zone, from, to, because, ending) = "{what}{zone}, {from} to {to}, because {because}; {ending}.", "{what}{zone}，{from} 至 {to}，因为{because}；{ending}。";
        nothing_there = "Nothing of the kind is there.", "实际并无此情况。";
        because(what, dwell, scores, hours) = "{what} was seen{dwell} {scores}{hours}", "看到{what}{dwell}，{scores}{hours}";
        it = "it", "目标";
        at_least(seconds) = " for at least {seconds} s", "至少 {seconds} 秒";
        by_hits(hits, newest, asked) = "with {hits} or more of the newest {newest} scores at {asked} or above", "最近 {newest} 个分数中有 {hits} 个以上达到 {asked}";
        by_median(score, asked, newest) = "with a score of {score}, where {asked} is asked (middle of the newest {newest})", "分数 {score}，要求 {asked}（最近 {newest} 个的中位数）";
        less_asked = ", outside business hours, when less is asked", "，非营业时段，要求较低";
        still_open = "still open when the clip ended", "录像结束时仍未关闭";
        closed_still(at) = "closed at {at}: what was seen has not moved and is taken for a thing", "{at} 关闭：目标一直未移动，视为物品";
        closed_hours(at) = "closed at {at}: the rule's hours were over", "{at} 关闭：规则时段已结束";
        closed_clear(at, seconds) = "closed at {at}: not seen for {seconds} s", "{at} 关闭：{seconds} 秒未再看到";
        other_values(what) = "What other values of {what} would give", "{what} 取其他值的结果";
        beside_truth = "Beside what is really there", "与实际情况对比";
        what = "what", "内容";
        events = "events", "事件";
        found = "found", "发现";
        missed = "missed", "漏报";
        wrong = "false", "误报";
        delay = "delay", "延迟";
        of_events = "found of the events", "事件中被发现的";
        of_findings = "right of the findings", "发现中正确的";
        brackets = "In brackets where the share lies with 95 % certainty: few events say little. Delay: half of the findings came sooner after their event began.", "括号内为 95 % 置信区间：事件少时说明不了多少。延迟：一半的问题在事件开始后更早被发现。";
        clips = "The clips", "各段录像";
        key_score = "score of a picture", "单帧分数";
        key_value = "what the rule goes by", "规则采用的值";
        key_asked = "what is asked", "要求";
        key_dwell = "how much of the time that it must last has passed", "所需持续时间的进度";
        key_finding = "finding: seen (thick), open (thin), told at the triangle", "问题：看到（粗），未关闭（细），三角处上报";
        key_truth = "really there", "实际存在";
        key_health = "what the camera did not see well", "画面异常";
        camera(name) = "camera {name}, ", "摄像头 {name}，";
        about_clip(camera, length, pictures, looked) = "{camera}{length}, {pictures} pictures, {looked} of them looked at", "{camera}{length}，{pictures} 帧，分析其中 {looked} 帧";
        no_picture(from, to) = "No picture from {from} to {to}.", "{from} 至 {to} 没有画面。";
        nothing_to_say = "Nothing can be said of this time.", "这段时间无法判断。";
        picture_was(what, from, to) = "{what} from {from} to {to}.", "{from} 至 {to} {what}。";
        findings = "Findings", "问题列表";
        rule = "rule", "规则";
        seen_from = "seen from", "开始";
        to = "to", "至";
        told_at = "told at", "上报";
        because_head = "because", "原因";
        in_the_end = "in the end", "结果";
        why_not = "Why not: what came near, and what it lacked", "为何未报：接近的情况及其不足";
        when = "when", "时间";
        what_lacked = "what was seen, and what was lacking", "看到的内容与不足之处";
        near = "near", "接近";
        false_finding = "a finding, but nothing of the kind is there", "有上报，但实际并无此情况";
        nearest_of(shown, all) = "The {shown} nearest of {all}.", "共 {all} 个，列出最接近的 {shown} 个。";
        how_to_read = "How to read this", "阅读说明";
        reading = "A model looks at some pictures a second and says what it sees and how sure it is: a score from 0 to 1. Objects are followed from picture to picture. A rule tells when the newest scores of an object are high enough (the dashed line), and stay so for long enough. What a rule tells is for a person to look at; it is no judgement.", "模型每秒分析若干帧，给出看到的目标和把握程度（0 到 1 的分数），并逐帧跟踪目标。当目标最近的分数足够高（虚线）并持续足够久时，规则上报。上报内容供人工查看，不是结论。";
        made_by(version, models) = "mingchu {version}; models: {models}. The same recordings, config and models give the same report.", "mingchu {version}；模型：{models}。相同的录像、配置和模型得到相同的报告。";
        span(from, to) = "{from} to {to}", "{from} 至 {to}";
        seconds(seconds) = "{seconds} s", "{seconds} 秒";
        minutes(minutes) = "{minutes} min", "{minutes} 分钟";
        nothing_to_show(from, to) = "{from} to {to}: nothing to show.", "{from} 至 {to}：无内容。";
        blind = "no picture was analysed: nothing can be said of this time", "没有分析画面：这段时间无法判断";
        timeline(from, to) = "timeline from {from} to {to}", "{from} 至 {to} 的时间轴";
        zone(rule, zone) = "{rule}, zone {zone}", "{rule}，区域 {zone}";
        how_long = "how long", "持续";
        finding = "finding", "问题";
        really_there = "really there", "实际";
        really_there_span(from, to) = "really there from {from} to {to}", "实际存在：{from} 至 {to}";
        score_at(at, score) = "{at}: score {score}", "{at}：分数 {score}";
        asked(value) = "asked: {value}", "要求：{value}";
        open_until(what, to) = "{what}: open until {to}", "{what}：{to} 前未关闭";
        told_span(at) = "told at {at}", "{at} 上报";
        objects = "Objects followed", "跟踪的目标";
        object(label, track, from, to, score) = "{label}, object {track}, {from} to {to}, score up to {score}", "{label}，目标 {track}，{from} 至 {to}，最高分数 {score}";
        health = "Picture", "画面";
        all_well = "seen well", "正常";
    }

    /// A sweep's plot.
    plot {
        title(key, rule) = "{key} of {rule}", "{rule} 的 {key}";
        each_value(key) = "What each {key} would give", "{key} 取不同值的结果";
        note(best, now) = "solid line: best, {best}; dotted line: now, {now}; shaded: where recall lies with 95 % certainty", "实线：最佳 {best}；点线：当前 {now}；阴影：召回率的 95 % 置信区间";
        precision = "precision", "准确率";
        recall = "recall", "召回率";
        f1 = "F1", "F1";
        band = "where recall lies with 95 % certainty", "召回率的 95 % 置信区间";
        right_and_complete = "How right, and how complete", "准确程度与完整程度";
        up = "up: of the findings, those that are right (precision)", "纵轴：发现中正确的比例（准确率）";
        across = "of the events, those found (recall)", "事件中被发现的比例（召回率）";
        best(value) = "best: {value}", "最佳：{value}";
        is_best = "best", "最佳";
        value_at(key, value, name, share) = "{key} {value}: {name} {share} %", "{key} {value}：{name} {share} %";
        place(key, value) = "{key} {value}", "{key} {value}";
    }
}
