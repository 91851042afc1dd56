//! When uploads may go on: times of the week, by the gateway's own time zone.
//!
//! ```text
//! 01:00-05:00            each day
//! Mon-Fri 22:00-06:00    from the evening of those days to the morning after
//! Sat,Sun 00:00-24:00    all day
//! ```
//!
//! A window over midnight belongs to the day on which it begins: `Sun 22:00-06:00` ends on Monday morning. The begin is
//! part of it, the end is not. Without any window uploads may always go on.
//!
//! Where clocks are put forward or back, an hour of the week is missing or comes twice: what was computed before holds
//! no longer. So nobody sleeps through to an opening: the clock is looked at now and then ([`LOOK_EVERY`]), which also
//! takes in a clock that was set and a time zone that was changed.

use std::{fmt::Write as _, mem::MaybeUninit, time::Duration};

/// Most windows of a list.
pub const MAX_WINDOWS: usize = 32;

/// Longest that anybody sleeps before looking at the clock again.
pub const LOOK_EVERY: Duration = Duration::from_secs(30);

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const EACH_DAY: u8 = 0x7f;
const DAY_MINUTES: u16 = 24 * 60;
const DAY_S: u32 = 24 * 3600;
const WEEK_S: u32 = 7 * DAY_S;

/// A moment of the week on the clock on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Seconds since Monday, 00:00; below a week.
    week_s: u32,
}

/// Times of the week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows(Vec<Window>);

/// One of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// Days on which it begins: bit 0 is Monday.
    days: u8,
    /// Minutes since midnight, below 24 h.
    begin: u16,
    /// 1 min to 24 h.
    minutes: u16,
}

impl LocalTime {
    /// Seconds since Monday, 00:00; what is beyond a week begins anew.
    #[must_use]
    pub const fn of_week(seconds: u32) -> Self {
        Self { week_s: seconds % WEEK_S }
    }

    /// By the system's clock and time zone (`TZ`, else `/etc/localtime`), both as they are at this moment.
    #[must_use]
    pub fn now() -> Self {
        unsafe extern "C" {
            /// POSIX, `tzset(3)`: the `libc` crate has it for Windows only.
            safe fn tzset();
        }
        // localtime_r(3) alone may go on with the zone that it saw first.
        tzset();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let mut local = MaybeUninit::<libc::tm>::uninit();
        // SAFETY: both pointers are valid for the call, which writes the structure behind the second one only, keeps
        // neither, and is safe with threads. It reads the environment, which nobody in this program changes.
        let filled = unsafe { libc::localtime_r(&raw const now, local.as_mut_ptr()) };
        if filled.is_null() {
            // A year beyond an `int`. UTC has days of the same length; 1970 began on a Thursday.
            return Self::of_week(
                u32::try_from((now + 3 * i64::from(DAY_S)).rem_euclid(i64::from(WEEK_S))).unwrap_or(0),
            );
        }
        // SAFETY: the call gave back its pointer, so it has filled the structure in.
        let local = unsafe { local.assume_init() };
        let part = |value: libc::c_int| u32::try_from(value).unwrap_or(0);
        // C counts from Sunday. A leap second (60) is the minute's last one again.
        let day = (part(local.tm_wday) + 6) % 7;
        Self::of_week(day * DAY_S + part(local.tm_hour) * 3600 + part(local.tm_min) * 60 + part(local.tm_sec).min(59))
    }

    /// Seconds since the last time that the week stood at `week_s`.
    const fn since(self, week_s: u32) -> u32 {
        (self.week_s + WEEK_S - week_s) % WEEK_S
    }
}

impl Windows {
    /// Reads a list; an empty one is always open.
    ///
    /// # Errors
    ///
    /// What is wrong, and with which of them.
    pub fn parse(list: &[&str]) -> Result<Self, String> {
        if list.len() > MAX_WINDOWS {
            return Err(format!("{} windows; at most {MAX_WINDOWS}", list.len()));
        }
        let windows = list.iter().map(|text| {
            read_window(text).map_err(|fault| format!("\"{}\": {fault}", tidegate_values::excerpt::shorten(text)))
        });
        windows.collect::<Result<_, _>>().map(Self)
    }

    /// The list, each as short as it may be written: [`Self::parse`] reads the same from it.
    #[must_use]
    pub fn as_list(&self) -> Vec<String> {
        self.0.iter().map(|window| window.text()).collect()
    }

    /// Whether uploads may go on.
    #[must_use]
    pub fn contains(&self, now: LocalTime) -> bool {
        self.0.is_empty() || self.open_for(now) > 0
    }

    /// Time until they may; zero where they already do.
    #[must_use]
    pub fn opens_in(&self, now: LocalTime) -> Duration {
        if self.contains(now) {
            return Duration::ZERO;
        }
        let waits = self.begins().map(|(begin, _)| LocalTime::of_week(begin).since(now.week_s));
        Duration::from_secs(waits.min().unwrap_or(0).into())
    }

    /// Time until they may no longer, zero where they already may not; `None` where that never comes.
    #[must_use]
    pub fn closes_in(&self, now: LocalTime) -> Option<Duration> {
        if self.0.is_empty() {
            return None;
        }
        // Windows that touch or overlap go on as one. A step is a minute or more: this ends.
        let mut open = 0;
        while open < WEEK_S {
            match self.open_for(LocalTime::of_week(now.week_s + open)) {
                0 => return Some(Duration::from_secs(open.into())),
                more => open += more,
            }
        }
        None
    }

    /// Seconds for which the window lasts that is open for longest.
    fn open_for(&self, now: LocalTime) -> u32 {
        self.begins().map(|(begin, length)| length.saturating_sub(now.since(begin))).max().unwrap_or(0)
    }

    /// When each of them begins in the week and how long it lasts, in seconds.
    fn begins(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().flat_map(|window| {
            let days = (0..7).filter(|day| window.days & 1 << day != 0);
            days.map(|day| (day * DAY_S + u32::from(window.begin) * 60, u32::from(window.minutes) * 60))
        })
    }
}

impl Window {
    fn text(self) -> String {
        let mut text = String::new();
        let mut day = 0;
        while self.days != EACH_DAY && day < 7 {
            let run = (self.days >> day).trailing_ones() as usize;
            if run > 0 {
                let comma = if text.is_empty() { "" } else { "," };
                let _infallible = write!(text, "{comma}{}", DAYS[day]);
            }
            if run > 1 {
                let dash = if run > 2 { '-' } else { ',' };
                let _infallible = write!(text, "{dash}{}", DAYS[day + run - 1]);
            }
            day += run + 1;
        }
        let end = self.begin + self.minutes;
        let end = if end > DAY_MINUTES { end - DAY_MINUTES } else { end };
        let space = if text.is_empty() { "" } else { " " };
        let _infallible =
            write!(text, "{space}{:02}:{:02}-{:02}:{:02}", self.begin / 60, self.begin % 60, end / 60, end % 60);
        text
    }
}

fn read_window(text: &str) -> Result<Window, String> {
    let text = text.trim();
    let (days, times) = match text.rsplit_once(char::is_whitespace) {
        Some((days, times)) => (read_days(days)?, times),
        None => (EACH_DAY, text),
    };
    let (begin, end) = times.split_once('-').ok_or("no HH:MM-HH:MM")?;
    let (begin, end) = (read_minute(begin)?, read_minute(end)?);
    let minutes = match end {
        _ if begin == DAY_MINUTES => return Err("24:00 ends a day, and begins none (write 00:00)".to_owned()),
        _ if begin == end => return Err("it ends when it begins (write 00:00-24:00 for a whole day)".to_owned()),
        end if end > begin => end - begin,
        end => end + DAY_MINUTES - begin,
    };
    Ok(Window { days, begin, minutes })
}

fn read_days(text: &str) -> Result<u8, String> {
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (read_day(first)?, read_day(last)?);
        // `Sat-Mon` goes on over the end of the week.
        loop {
            days |= 1 << day;
            if day == last {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Ok(days)
}

fn read_day(text: &str) -> Result<usize, String> {
    let name = text.trim();
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).ok_or_else(|| {
        format!("\"{}\" is no day (Mon, Tue, Wed, Thu, Fri, Sat, Sun)", tidegate_values::excerpt::shorten(name))
    })
}

/// Minutes since midnight of `HH:MM`.
fn read_minute(text: &str) -> Result<u16, String> {
    let two = |digits: &str| {
        (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse::<u16>().ok())?
    };
    text.split_once(':')
        .and_then(|(hour, minute)| Some(two(hour)? * 60 + two(minute).filter(|minute| *minute < 60)?))
        .filter(|minutes| *minutes <= DAY_MINUTES)
        .ok_or_else(|| {
            format!("\"{}\" is no time of day (HH:MM, 00:00 to 24:00)", tidegate_values::excerpt::shorten(text))
        })
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);

    fn windows(list: &[&str]) -> Windows {
        Windows::parse(list).unwrap()
    }

    fn at(day: &str, time: &str) -> LocalTime {
        LocalTime::of_week(
            u32::try_from(read_day(day).unwrap()).unwrap() * DAY_S + u32::from(read_minute(time).unwrap()) * 60,
        )
    }

    #[test]
    fn without_windows_uploads_always_go_on() {
        let always = windows(&[]);
        assert_eq!(always, Windows::default());
        for seconds in [0, DAY_S, WEEK_S - 1] {
            let now = LocalTime::of_week(seconds);
            assert!(always.contains(now));
            assert_eq!((always.opens_in(now), always.closes_in(now)), (Duration::ZERO, None));
        }
    }

    #[test]
    fn a_window_holds_its_begin_and_not_its_end() {
        let night = windows(&["01:00-05:00"]);
        for day in DAYS {
            assert!(!night.contains(at(day, "00:59")));
            assert!(night.contains(at(day, "01:00")));
            assert!(night.contains(at(day, "04:59")));
            assert!(!night.contains(at(day, "05:00")));
        }
        assert_eq!(night.opens_in(at("Mon", "00:00")), HOUR);
        assert_eq!(night.opens_in(at("Sun", "05:00")), 20 * HOUR, "over the end of the week");
        assert_eq!(night.closes_in(at("Mon", "01:00")), Some(4 * HOUR));
        assert_eq!(night.closes_in(at("Mon", "05:00")), Some(Duration::ZERO));
    }

    #[test]
    fn seconds_count() {
        let night = windows(&["01:00-05:00"]);
        let before = LocalTime::of_week(3599);
        assert!(!night.contains(before));
        assert_eq!(night.opens_in(before), Duration::from_secs(1));
        assert_eq!(night.closes_in(LocalTime::of_week(5 * 3600 - 1)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_begins_on() {
        let nights = windows(&["Mon-Fri 22:00-06:00"]);
        assert!(!nights.contains(at("Mon", "05:00")), "that would be Sunday's");
        assert!(nights.contains(at("Mon", "22:00")));
        assert!(nights.contains(at("Sat", "05:59")), "Friday's");
        assert!(!nights.contains(at("Sat", "06:00")));
        assert!(!nights.contains(at("Sat", "23:00")));
        assert_eq!(nights.opens_in(at("Sat", "06:00")), 64 * HOUR);

        let sunday = windows(&["Sun 22:00-06:00"]);
        assert!(sunday.contains(at("Mon", "05:59")));
        assert!(!sunday.contains(at("Mon", "06:00")));
        assert_eq!(sunday.closes_in(at("Sun", "23:00")), Some(7 * HOUR));
    }

    #[test]
    fn windows_that_touch_or_overlap_close_together() {
        let weekend = windows(&["Sat,Sun 00:00-24:00"]);
        assert_eq!(weekend.closes_in(at("Sat", "12:00")), Some(36 * HOUR));
        assert_eq!(weekend.opens_in(at("Mon", "00:00")), 120 * HOUR);
        let chain = windows(&["01:00-03:00", "02:00-04:00", "04:00-04:30"]);
        assert_eq!(chain.closes_in(at("Wed", "01:30")), Some(3 * HOUR));
        assert_eq!(windows(&["00:00-24:00"]).closes_in(at("Wed", "01:30")), None);
        assert_eq!(windows(&["12:00-11:59"]).closes_in(at("Wed", "12:00")), Some(1439 * MINUTE));
        assert_eq!(windows(&["12:00-11:59", "11:00-13:00"]).closes_in(at("Wed", "12:00")), None);
    }

    #[test]
    fn a_list_is_written_as_short_as_it_may_be() {
        for (given, written) in [
            ("01:00-05:00", "01:00-05:00"),
            ("Mon-Sun 01:00-05:00", "01:00-05:00"),
            ("mon-FRI  22:00-06:00 ", "Mon-Fri 22:00-06:00"),
            ("Sun,Sat 00:00-24:00", "Sat,Sun 00:00-24:00"),
            ("Sat-Mon 20:00-00:00", "Mon,Sat,Sun 20:00-24:00"),
            ("Fri-Mon 20:00-21:00", "Mon,Fri-Sun 20:00-21:00"),
            ("Mon, Wed 08:15-09:45", "Mon,Wed 08:15-09:45"),
            ("Sun-Sat 01:00-02:00", "01:00-02:00"),
        ] {
            assert_eq!(windows(&[given]).as_list(), [written], "{given}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_what_is_wrong() {
        for (given, said) in [
            ("", "no HH:MM-HH:MM"),
            ("Mon", "no HH:MM-HH:MM"),
            ("Mon-Fri", "\"Mon\" is no time of day (HH:MM, 00:00 to 24:00)"),
            ("1:00-05:00", "\"1:00\" is no time of day (HH:MM, 00:00 to 24:00)"),
            ("+1:00-05:00", "\"+1:00\" is no time of day (HH:MM, 00:00 to 24:00)"),
            ("01:00-24:01", "\"24:01\" is no time of day (HH:MM, 00:00 to 24:00)"),
            ("01:60-05:00", "\"01:60\" is no time of day (HH:MM, 00:00 to 24:00)"),
            ("24:00-05:00", "24:00 ends a day, and begins none (write 00:00)"),
            ("05:00-05:00", "it ends when it begins (write 00:00-24:00 for a whole day)"),
            ("Mo 01:00-05:00", "\"Mo\" is no day (Mon, Tue, Wed, Thu, Fri, Sat, Sun)"),
            ("Mon,,Tue 01:00-05:00", "\"nothing\" is no day (Mon, Tue, Wed, Thu, Fri, Sat, Sun)"),
        ] {
            let error = Windows::parse(&["00:00-24:00", given]).unwrap_err();
            assert_eq!(error, format!("\"{}\": {said}", tidegate_values::excerpt::shorten(given)));
        }
        let many = vec!["01:00-02:00"; MAX_WINDOWS + 1];
        assert_eq!(Windows::parse(&many).unwrap_err(), "33 windows; at most 32");
        assert!(Windows::parse(&many[1..]).is_ok());
    }

    const SAYS_NOW: &str = "window::tests::says_now";

    #[test]
    fn says_now() {
        println!("now={}", LocalTime::now().week_s);
    }

    #[test]
    fn the_time_zone_is_that_of_the_environment() {
        let now_in = |zone: &str| -> u32 {
            let mut own = Command::new(env::current_exe().unwrap());
            let output = own.args(["--exact", SAYS_NOW, "--nocapture"]).env("TZ", zone).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let digits = text.split_once("now=").expect(&text).1;
            digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
        };
        let utc = now_in("UTC0");
        // POSIX: what is to be added to give UTC; so this is 5 h 30 min ahead of it.
        let ahead = now_in("IST-05:30");
        let apart = (ahead + WEEK_S - utc) % WEEK_S;
        assert!((19_800..19_860).contains(&apart), "{utc} {ahead}");
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        // The fourth of January 1970 was a Sunday.
        let by_hand = u32::try_from((seconds + 3 * u64::from(DAY_S)) % u64::from(WEEK_S)).unwrap();
        assert!((by_hand + WEEK_S - utc) % WEEK_S < 60, "{by_hand} {utc}");
    }

    proptest! {
        #[test]
        fn lists_are_read_back(
            list in prop::collection::vec((1_u8..=EACH_DAY, 0_u16..DAY_MINUTES, 1_u16..=DAY_MINUTES), 0..8),
        ) {
            // What lasts for a whole day can only be written from midnight on.
            let given = Windows(
                list.into_iter()
                    .map(|(days, begin, minutes)| {
                        let begin = if minutes == DAY_MINUTES { 0 } else { begin };
                        Window { days, begin, minutes }
                    })
                    .collect(),
            );
            let texts = given.as_list();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(Windows::parse(&texts), Ok(given));
        }

        #[test]
        fn openings_and_closings_are_those_that_each_second_shows(
            list in prop::collection::vec((1_u8..=EACH_DAY, 0_u16..DAY_MINUTES, 1_u16..=DAY_MINUTES), 1..4),
            minute in 0_u32..7 * 24 * 60,
        ) {
            let windows = Windows(
                list.into_iter().map(|(days, begin, minutes)| Window { days, begin, minutes }).collect(),
            );
            let at = |minutes: u32| LocalTime::of_week((minute + minutes) * 60);
            let after = |minutes: u32| Duration::from_secs(u64::from(minutes) * 60);
            let week = 7 * 24 * 60;
            let opens = (0..week).find(|minutes| windows.contains(at(*minutes))).map(after);
            let closes = (0..week).find(|minutes| !windows.contains(at(*minutes))).map(after);
            prop_assert_eq!(Some(windows.opens_in(at(0))), opens);
            prop_assert_eq!(windows.closes_in(at(0)), closes);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "([MonTueSa,-]{0,8} )?[0-9:-]{0,12}|.{0,24}") {
            let _either = Windows::parse(&[&text]);
        }
    }
}
