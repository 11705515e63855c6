//! Reads a sidecar's metrics page.
//!
//! Takes an address; gives samples, and from them counts and quantiles. Blocks on one short HTTP exchange, bounded. On
//! failure: nothing, because a sidecar that does not answer now is asked again in a second.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A page that takes longer is skipped: the next look is a second away.
const ANSWER_MAX: Duration = Duration::from_millis(800);
/// A page of more bytes is not a sidecar's.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// One line of the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// The status and body of a page.
pub async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    timeout(ANSWER_MAX, async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    })
    .await
    .ok()?
}

/// Reads the text format of Prometheus; what is not a sample is passed over.
pub fn parse(page: &str) -> Vec<Sample> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = match line.find('}') {
        Some(end) => (line.get(..=end)?, line.get(end + 1..)?),
        None => line.split_once(' ')?,
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.trim().to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample { name: name.to_owned(), labels: labels.collect(), value })
}

/// The sum over all series of a metric.
pub fn sum(samples: &[Sample], name: &str) -> f64 {
    samples.iter().filter(|s| s.name == name).map(|s| s.value).sum()
}

/// A histogram: how many observations were at most so long, by upper bound in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Upper bound and cumulative count, in order.
    buckets: Vec<(f64, f64)>,
}

impl Histogram {
    /// Sums all series of a histogram.
    pub fn of(samples: &[Sample], name: &str) -> Self {
        let bucket = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in samples.iter().filter(|s| s.name == bucket) {
            let Some(bound) = sample.labels.get("le").and_then(|le| le.parse::<f64>().ok()) else { continue };
            match buckets.iter_mut().find(|(b, _)| *b == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { buckets }
    }

    /// What was observed since `before`. A restart, which counts from nothing, counts as a new beginning.
    pub fn since(&self, before: &Self) -> Self {
        let old = |bound: f64| before.buckets.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, count)| *count);
        if self.count() < before.count() {
            return self.clone();
        }
        Self { buckets: self.buckets.iter().map(|(bound, count)| (*bound, count - old(*bound))).collect() }
    }

    /// How many observations there are.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value that a share `q` of the observations does not exceed, as straight lines within buckets say.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q * self.count();
        if rank <= 0.0 {
            return None;
        }
        let (mut low, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.buckets {
            if count >= rank {
                if bound.is_infinite() {
                    return Some(low);
                }
                let share = if count > below { (rank - below) / (count - below) } else { 1.0 };
                return Some(low + (bound - low) * share);
            }
            (low, below) = (bound, count);
        }
        None
    }
}

/// Seconds in a form that fits a line: `850 µs`, `12 ms`, `3.4 s`.
pub fn show_seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        Some(s) if s < 1e-2 => format!("{:.1} ms", s * 1e3),
        Some(s) if s < 1.0 => format!("{:.0} ms", s * 1e3),
        Some(s) => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP h x\n# TYPE h histogram\n\
        n_total{queue=\"a\",status=\"success\"} 3\nn_total{queue=\"a\",status=\"error\"} 2\ngauge 1.5\n\
        h_bucket{queue=\"a\",le=\"0.001\"} 50\nh_bucket{queue=\"a\",le=\"0.002\"} 90\nh_bucket{queue=\"a\",le=\"+Inf\"} 100\nbroken{\n";

    #[test]
    fn samples_are_read_and_summed() {
        let samples = parse(PAGE);
        assert_eq!(samples.len(), 6);
        assert_eq!(sum(&samples, "n_total"), 5.0);
        assert_eq!(sum(&samples, "gauge"), 1.5);
        assert_eq!(samples[0].labels["status"], "success");
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = Histogram::of(&parse(PAGE), "h");
        assert_eq!(histogram.count(), 100.0);
        assert_eq!(histogram.quantile(0.25), Some(0.0005));
        assert_eq!(histogram.quantile(0.7), Some(0.0015));
        // Beyond the last bound nothing is known but that bound.
        assert_eq!(histogram.quantile(0.99), Some(0.002));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn the_difference_of_two_looks_and_a_restart() {
        let now = Histogram { buckets: vec![(1.0, 5.0), (f64::INFINITY, 8.0)] };
        let before = Histogram { buckets: vec![(1.0, 4.0), (f64::INFINITY, 4.0)] };
        assert_eq!(now.since(&before).buckets, [(1.0, 1.0), (f64::INFINITY, 4.0)]);
        assert_eq!(before.since(&now), before);
    }

    #[test]
    fn seconds_fit_a_line() {
        let shown: Vec<String> = [1e-5, 0.0012, 0.25, 3.44].map(|s| show_seconds(Some(s))).into();
        assert_eq!(shown, ["10 µs", "1.2 ms", "250 ms", "3.4 s"]);
        assert_eq!(show_seconds(None), "-");
    }
}
