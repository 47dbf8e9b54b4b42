package protocol_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
	_ "time/tzdata" // the tests are about a zone with summer time, wherever they run

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

// workdays are Monday to Friday.
const workdays = protocol.EveryDay &^ (1<<time.Saturday | 1<<time.Sunday)

func parseBandwidth(text string) (limit protocol.BandwidthLimit, err error) {
	return limit, yaml.UnmarshalWithOptions([]byte(text), &limit, yaml.Strict())
}

func TestBandwidthLimitAsItIsWritten(t *testing.T) {
	t.Parallel()
	type intervals = []protocol.BandwidthInterval
	for text, want := range map[string]protocol.BandwidthLimit{
		"0":                     {},
		"100MiB":                {Default: 100 << 20},
		"'4096'":                {Default: 4096},
		"{}":                    {},
		"{default: 1MiB}":       {Default: 1 << 20},
		"default: 1MiB":         {Default: 1 << 20},
		"{'8:00-18:00': 1MiB}":  {Intervals: intervals{{protocol.EveryDay, 480, 1080, 1 << 20}}},
		"{'22:30 - 06:05': 2K}": {Intervals: intervals{{protocol.EveryDay, 1350, 365, 2048}}},
		"{mon-sun: 1MiB}":       {Intervals: intervals{{protocol.EveryDay, 0, 1440, 1 << 20}}},
		"{'00:00-24:00': 1MiB}": {Intervals: intervals{{protocol.EveryDay, 0, 1440, 1 << 20}}},
		"{'sat,Sun': 0}":        {Intervals: intervals{{1<<time.Saturday | 1<<time.Sunday, 0, 1440, 0}}},
		"{'fri-mon 10:00-11:00': 0}": {Intervals: intervals{
			{1<<time.Friday | 1<<time.Saturday | 1<<time.Sunday | 1<<time.Monday, 600, 660, 0},
		}},
		"'08:00-18:00': 20MiB\ndefault: 100MiB\n'mon-fri 08:00-18:00': 10MiB\n": {Default: 100 << 20, Intervals: intervals{
			{protocol.EveryDay, 480, 1080, 20 << 20}, {workdays, 480, 1080, 10 << 20},
		}},
	} {
		limit, err := parseBandwidth(text)
		require.NoError(t, err, text)
		require.Equal(t, want, limit, text)
		require.NoError(t, limit.Validate(), text)
	}
}

func TestBandwidthLimitSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"fast":                                   `[1:1] size "fast"`,
		"-1":                                     "write it like 4096",
		"[1MiB]":                                 "[1:1] size",
		"{default: fast}":                        `[1:11] size "fast"`,
		"{default: [1MiB]}":                      "[1:11] size",
		"{noon: 1MiB}":                           `[1:2] interval "noon"`,
		"{'': 1MiB}":                             "mon-fri 08:00-18:00",
		"{' ': 1MiB}":                            "mon-fri 08:00-18:00",
		"{08:00-18:00: 1MiB}":                    `in quotes hours like "08:00-18:00"`,
		"{'08:00': 1MiB}":                        "mon-fri 08:00-18:00",
		"{'montag 08:00-18:00': 1MiB}":           `"montag" are no days`,
		"{'mon, tue': 1MiB}":                     "mon-fri 08:00-18:00",
		"{'mon,,tue': 1MiB}":                     `"mon,,tue" are no days`,
		"{mon-fri-sun: 1MiB}":                    `"mon-fri-sun" are no days`,
		"{mon-: 1MiB}":                           "are no days",
		"{'08:00-08:00': 1MiB}":                  "not of no length",
		"{'24:00-08:00': 1MiB}":                  "from 00:00 to 24:00",
		"{'08:00-24:01': 1MiB}":                  "from 00:00 to 24:00",
		"{'08:60-09:00': 1MiB}":                  "from 00:00 to 24:00",
		"{'08:00-99:00': 1MiB}":                  "from 00:00 to 24:00",
		"{'mon-fri 08:00-18:00 20:00-21:00': 0}": "mon-fri 08:00-18:00",
		"{default: 1MiB, default: 2MiB}":         "already defined",
	} {
		_, err := parseBandwidth(text)
		require.ErrorContains(t, err, says, text)
	}
	for text, says := range map[string]string{
		"100":                                  "100 B per second is too little",
		"{'08:00-18:00': 100}":                 `interval "08:00-18:00": 100 B per second is too little`,
		"{'08:00-18:00': 0, '8:00-18:00': 1M}": `interval "08:00-18:00" is there twice`,
		"{sat: 1M, 'sat 00:00-24:00': 1M}":     `interval "sat" is there twice`,
	} {
		limit, err := parseBandwidth(text)
		require.NoError(t, err, text)
		require.ErrorContains(t, limit.Validate(), says, text)
	}
	require.Error(t, protocol.BandwidthLimit{Intervals: make([]protocol.BandwidthInterval, 101)}.Validate())
	require.Error(t, protocol.BandwidthLimit{Intervals: []protocol.BandwidthInterval{{Days: 0x80, To: 1}}}.Validate())
	require.Error(t, protocol.BandwidthLimit{Intervals: []protocol.BandwidthInterval{{To: 1}}}.Validate())
}

func TestBandwidthLimitForPeople(t *testing.T) {
	t.Parallel()
	limit, err := parseBandwidth("{default: 0, '8:00-18:00': 20MiB, 'mon,tue,wed,fri,sun': 0}")
	require.NoError(t, err)
	require.Equal(t, "unlimited; 08:00-18:00 20.0 MiB/s; mon-wed,fri,sun unlimited", limit.String())
	require.False(t, limit.Unlimited())
	require.True(t, protocol.BandwidthLimit{}.Unlimited())
	require.Empty(t, protocol.Weekdays(0).String())
	require.Equal(t, "sat,sun", protocol.Weekdays(1<<time.Saturday|1<<time.Sunday).String())
}

// arbitraryBandwidth draws a limit that is valid.
func arbitraryBandwidth(t *rapid.T) protocol.BandwidthLimit {
	bandwidth := rapid.OneOf(rapid.Just(protocol.ByteSize(0)), rapid.Custom(func(t *rapid.T) protocol.ByteSize {
		return protocol.ByteSize(rapid.Uint64Min(protocol.MinBandwidth).Draw(t, "bandwidth"))
	}))
	limit := protocol.BandwidthLimit{Default: bandwidth.Draw(t, "default")}
	seen := map[protocol.BandwidthInterval]bool{}
	for range rapid.IntRange(0, 4).Draw(t, "intervals") {
		interval := protocol.BandwidthInterval{
			Days: protocol.Weekdays(rapid.Uint8Range(1, uint8(protocol.EveryDay)).Draw(t, "days")),
			From: rapid.Uint16Range(0, 1439).Draw(t, "from"),
			To:   rapid.Uint16Range(1, 1440).Draw(t, "to"),
		}
		if interval.From == interval.To || seen[interval] {
			continue
		}
		seen[interval] = true
		interval.Limit = bandwidth.Draw(t, "limit")
		limit.Intervals = append(limit.Intervals, interval)
	}
	return limit
}

func TestBandwidthLimitsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := arbitraryBandwidth(t)
		require.NoError(t, want.Validate())
		text, err := yaml.Marshal(want)
		require.NoError(t, err)
		got, err := parseBandwidth(string(text))
		require.NoError(t, err, "%s", text)
		require.Equal(t, want, got, "%s", text)
		text, err = json.Marshal(want)
		require.NoError(t, err)
		var again protocol.BandwidthLimit
		require.NoError(t, json.Unmarshal(text, &again), "%s", text)
		require.Equal(t, want, again, "%s", text)
		require.True(t, want.Equal(again))
	})
}

func TestBandwidthLimitInJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]protocol.BandwidthLimit{
		`null`: {}, `1048576`: {Default: 1 << 20}, `"1MiB"`: {Default: 1 << 20}, `{}`: {}, `{"default": 4096}`: {Default: 4096},
	} {
		var limit protocol.BandwidthLimit
		require.NoError(t, json.Unmarshal([]byte(text), &limit), text)
		require.Equal(t, want, limit, text)
	}
	for _, text := range []string{`true`, `[]`, `[1]`, `{"default": {}}`, `{"default": []}`, `{"x": "1MiB"}`, `{"default": 1e6}`, `-1`} {
		var limit protocol.BandwidthLimit
		require.Error(t, json.Unmarshal([]byte(text), &limit), "%s is %s", text, limit)
	}
}

func zone(t require.TestingT, name string) *time.Location {
	location, err := time.LoadLocation(name)
	require.NoError(t, err)
	return location
}

func TestTheNarrowestIntervalWins(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"{default: 100MiB, '08:00-18:00': 20MiB, 'mon-fri 08:00-18:00': 10MiB, '22:00-02:00': 0, sat: 50MiB, '12:00-12:30': 5MiB, '12:15-12:45': 6MiB}",
		"{'12:15-12:45': 6MiB, '12:00-12:30': 5MiB, sat: 50MiB, '22:00-02:00': 0, 'mon-fri 08:00-18:00': 10MiB, '08:00-18:00': 20MiB, default: 100MiB}",
	} {
		limit, err := parseBandwidth(text)
		require.NoError(t, err)
		for at, want := range map[string]string{
			"Mon 02 Nov 2026 07:59:59": "100.0 MiB until 08:00",
			"Mon 02 Nov 2026 08:00:00": "10.0 MiB until 12:00",
			"Mon 02 Nov 2026 12:00:00": "5.0 MiB until 12:30",
			"Mon 02 Nov 2026 12:20:30": "5.0 MiB until 12:30",
			"Mon 02 Nov 2026 12:30:00": "6.0 MiB until 12:45",
			"Mon 02 Nov 2026 17:00:00": "10.0 MiB until 18:00",
			"Mon 02 Nov 2026 22:00:00": "0 B until 02:00",
			"Tue 03 Nov 2026 01:59:00": "0 B until 02:00",
			"Sat 07 Nov 2026 07:00:00": "50.0 MiB until 12:00",
			"Sat 07 Nov 2026 09:00:00": "50.0 MiB until 12:00", // 24 hours of a week, and the other has 70
			"Sat 07 Nov 2026 01:00:00": "50.0 MiB until 12:00", // 24 hours, and the other has 28
			"Sun 08 Nov 2026 09:00:00": "20.0 MiB until 12:00",
			"Sun 08 Nov 2026 01:00:00": "0 B until 02:00",
		} {
			moment, err := time.Parse("Mon 02 Jan 2006 15:04:05", at)
			require.NoError(t, err)
			bandwidth, until := limit.At(moment)
			require.Equal(t, want, fmt.Sprintf("%s until %s", bandwidth, until.Format("15:04")), "%s in %s", at, text)
		}
	}
}

func TestBandwidthThatNeverChanges(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"0", "1MiB", "{default: 1MiB, '08:00-18:00': 1MiB}", "{default: 5MiB, mon-sun: 1MiB}"} {
		limit, err := parseBandwidth(text)
		require.NoError(t, err)
		_, until := limit.At(time.Now())
		require.Zero(t, until, text)
	}
}

// In Berlin, 2026-03-29 goes from 02:00 to 03:00, and 2026-10-25 has the hour from 02:00 to 03:00 twice.
func TestBandwidthAroundSummerTime(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	for name, test := range map[string]struct {
		limit, at, until string
		bandwidth        protocol.ByteSize
	}{
		"an interval of the hour that is left out":  {"{'02:00-03:00': 1MiB}", "2026-03-28T23:00:00Z", "2026-03-30T00:00:00Z", 0},
		"an interval that begins in it":             {"{'02:30-04:00': 1MiB}", "2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", 0},
		"and its end":                               {"{'02:30-04:00': 1MiB}", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z", 1 << 20},
		"an interval that ends in it":               {"{'01:00-02:30': 1MiB}", "2026-03-29T00:10:00Z", "2026-03-29T01:00:00Z", 1 << 20},
		"an interval of the hour that comes twice":  {"{'02:00-03:00': 1MiB}", "2026-10-25T00:10:00Z", "2026-10-25T02:00:00Z", 1 << 20},
		"the first half of it":                      {"{'02:00-02:30': 1MiB}", "2026-10-25T00:10:00Z", "2026-10-25T00:30:00Z", 1 << 20},
		"its other half":                            {"{'02:00-02:30': 1MiB}", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", 0},
		"the first half again":                      {"{'02:00-02:30': 1MiB}", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", 1 << 20},
		"a day of 25 hours":                         {"{sun: 1MiB}", "2026-10-25T00:00:00Z", "2026-10-25T23:00:00Z", 1 << 20},
		"an interval once a week, in what was left": {"{'sun 02:00-03:00': 1MiB}", "2026-03-28T12:00:00Z", "2026-04-05T00:00:00Z", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit, err := parseBandwidth(test.limit)
			require.NoError(t, err)
			at, err := time.Parse(time.RFC3339, test.at)
			require.NoError(t, err)
			bandwidth, until := limit.At(at.In(berlin))
			require.Equal(t, test.bandwidth, bandwidth)
			require.Equal(t, test.until, until.UTC().Format(time.RFC3339))
		})
	}
}

// At a change the limit is another one, and up to it, minute for minute, it is the same.
func TestBandwidthHoldsUntilItChanges(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/St_Johns"), zone(t, "Australia/Lord_Howe")}
	rapid.Check(t, func(t *rapid.T) {
		limit := arbitraryBandwidth(t)
		// Around the days on which clocks are changed.
		near := rapid.SampledFrom([]time.Time{
			time.Date(2026, 3, 6, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 27, 0, 0, 0, 0, time.UTC),
			time.Date(2026, 10, 23, 0, 0, 0, 0, time.UTC), time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC),
		}).Draw(t, "near")
		at := near.Add(time.Duration(rapid.Int64Range(0, int64(72*time.Hour)).Draw(t, "after"))).
			In(rapid.SampledFrom(zones).Draw(t, "zone"))
		bandwidth, until := limit.At(at)
		if until.IsZero() {
			until = at.AddDate(0, 0, 8)
		} else {
			require.True(t, until.After(at))
			next, _ := limit.At(until)
			require.NotEqual(t, bandwidth, next, "at %s", until)
		}
		for moment := at; moment.Before(until); moment = moment.Add(7 * time.Minute) {
			now, _ := limit.At(moment)
			require.Equal(t, bandwidth, now, "at %s, and it was to hold from %s to %s", moment, at, until)
		}
		last, _ := limit.At(until.Add(-1))
		require.Equal(t, bandwidth, last)
	})
}

// Whatever comes over the wire, the limit of a time can be found.
func TestBandwidthOfNonsense(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := arbitrary[protocol.BandwidthLimit](t)
		at := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), 0).UTC()
		if _, until := limit.At(at); !until.IsZero() {
			require.True(t, until.After(at))
		}
		_ = limit.String()
	})
}

func FuzzBandwidthLimit(f *testing.F) {
	for _, seed := range []string{
		"0", "100MiB", "{}", "[]", "", "null", "{default: 1MiB, '08:00-18:00': 20MiB}", "{'mon-fri,sun 22:00-6:00': 0}", "{<<: {}}",
		"&a {default: *a}", "? [a]\n: 1\n", "{sat: {default: 1}}", "{1: 2, 3: 4}", "!!binary YQ==", "{default: |\n  1\n}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		limit, err := parseBandwidth(text)
		if err != nil || limit.Validate() != nil {
			return
		}
		written, err := yaml.Marshal(limit)
		require.NoError(t, err)
		again, err := parseBandwidth(string(written))
		require.NoError(t, err, "%s", written)
		require.True(t, limit.Equal(again), "%s read as %s", written, again)
	})
}
