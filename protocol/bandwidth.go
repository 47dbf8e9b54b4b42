// Bandwidth limits: how fast streams may go, and when.

package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// BandwidthLimit is how many bytes of streams may pass in a second, and how that changes over the week. Operators write one
// size, or a map of them:
//
//	bandwidth_limit: 100MiB
//	bandwidth_limit: {default: 100MiB, "08:00-18:00": 20MiB, "mon-fri 08:00-18:00": 10MiB, "sat,sun": 0}
//
// The hours are those of the clock on the wall where the limit applies. An interval that ends before it begins passes
// midnight, and belongs to the day on which it begins. Of the intervals that hold at a time the narrowest wins, which is
// the one with the least time in a week; of equally narrow ones, the lowest limit. So the order in which they are written
// means nothing. Zero is unlimited, and so is the zero value.
type BandwidthLimit struct {
	// Default is the limit while no interval holds, in bytes per second.
	Default ByteSize `msgpack:"default"`
	// Intervals are the exceptions, as they were written.
	Intervals []BandwidthInterval `msgpack:"intervals,omitempty"`
}

// BandwidthInterval is a limit for some hours of some days.
type BandwidthInterval struct {
	// Days are those on which the interval begins.
	Days Weekdays `msgpack:"days"`
	// From and To are minutes since midnight; To is the first that is not in the interval, and 1440 is the day's end. A To
	// that is before From is one of the next day.
	From uint16 `msgpack:"from"`
	To   uint16 `msgpack:"to"`
	// Limit is in bytes per second; zero is unlimited.
	Limit ByteSize `msgpack:"limit"`
}

// Weekdays is a set of days: bit n is time.Weekday n, so that bit 0 is Sunday.
type Weekdays uint8

// EveryDay has all seven days.
const EveryDay Weekdays = 1<<7 - 1

// The bounds of a bandwidth limit.
const (
	// MinBandwidth is the lowest limit in bytes per second. What is lower lacks its unit.
	MinBandwidth = 1 << 10
	// MaxBandwidthIntervals is how many intervals one limit may have.
	MaxBandwidthIntervals = 100
)

const (
	minutesPerDay  = 24 * 60
	secondsPerWeek = 7 * 24 * 60 * 60

	defaultBandwidth = "default"
)

// At is the limit that holds at t, in t's location, and when it next changes. A limit that never changes gives the zero
// time. A change by the clock's own doing, when summer time begins or ends, counts too.
func (l BandwidthLimit) At(t time.Time) (limit ByteSize, until time.Time) {
	limit = l.on(t)
	if len(l.Intervals) == 0 {
		return limit, time.Time{}
	}
	// Without the monotonic clock: the schedule follows the one on the wall, also where that is set anew.
	next := t.Round(0)
	// A week has every minute that there is, but for those that the beginning of summer time leaves out; two have them all.
	for end := next.AddDate(0, 0, 15); next.Before(end); {
		next = l.nextBoundary(next)
		if l.on(next) != limit {
			return limit, next
		}
	}
	return limit, time.Time{}
}

// on is the limit that holds at t.
func (l BandwidthLimit) on(t time.Time) ByteSize {
	limit, narrowest := l.Default, 0
	minute := t.Hour()*60 + t.Minute()
	for _, interval := range l.Intervals {
		if !interval.holds(t.Weekday(), minute) {
			continue
		}
		width := interval.width()
		if narrowest == 0 || width < narrowest || width == narrowest && lower(interval.Limit, limit) {
			limit, narrowest = interval.Limit, width
		}
	}
	return limit
}

// lower tells whether a is less than b, where zero is more than everything.
func lower(a, b ByteSize) bool { return a != 0 && (b == 0 || a < b) }

// nextBoundary is the first time after t at which an interval may begin or end: when the clock on the wall gets to one of
// their ends, or when it jumps.
func (l BandwidthLimit) nextBoundary(t time.Time) time.Time {
	hour, minute, second := t.Clock()
	now := ((int(t.Weekday())*24+hour)*60+minute)*60 + second
	wait := secondsPerWeek
	for _, interval := range l.Intervals {
		for day := range 7 {
			if !interval.Days.Has(time.Weekday(day)) {
				continue
			}
			begin := day*minutesPerDay + int(interval.From)
			for _, boundary := range []int{begin, begin + interval.length()} {
				ahead := (boundary*60-now)%secondsPerWeek + secondsPerWeek
				wait = min(wait, (ahead-1)%secondsPerWeek+1)
			}
		}
	}
	next := t.Add(time.Duration(wait)*time.Second - time.Duration(t.Nanosecond()))
	if _, end := t.ZoneBounds(); !end.IsZero() && end.Before(next) {
		return end
	}
	return next
}

// holds tells whether a minute of a day is in the interval.
func (i BandwidthInterval) holds(day time.Weekday, minute int) bool {
	from, to := int(i.From), int(i.To)
	if from < to {
		return i.Days.Has(day) && from <= minute && minute < to
	}
	return i.Days.Has(day) && from <= minute || i.Days.Has((day+6)%7) && minute < to
}

// length is how many minutes the interval lasts each time.
func (i BandwidthInterval) length() int {
	if length := int(i.To) - int(i.From); length > 0 {
		return length
	}
	return int(i.To) - int(i.From) + minutesPerDay
}

// width is how many minutes of a week are in the interval.
func (i BandwidthInterval) width() int { return i.length() * bits.OnesCount8(uint8(i.Days)) }

// when is the interval without its limit: all that tells it apart from others.
func (i BandwidthInterval) when() BandwidthInterval {
	i.Limit = 0
	return i
}

// Unlimited tells whether there is never a limit.
func (l BandwidthLimit) Unlimited() bool {
	return l.Default == 0 && !slices.ContainsFunc(l.Intervals, func(i BandwidthInterval) bool { return i.Limit != 0 })
}

// Equal tells whether both are written alike.
func (l BandwidthLimit) Equal(other BandwidthLimit) bool {
	return l.Default == other.Default && slices.Equal(l.Intervals, other.Intervals)
}

// Validate tells what is wrong with the limit.
func (l BandwidthLimit) Validate() error {
	if len(l.Intervals) > MaxBandwidthIntervals {
		return Usagef("%d intervals are too many (at most %d)", len(l.Intervals), MaxBandwidthIntervals)
	}
	if l.Default != 0 && l.Default < MinBandwidth {
		return tooLow(l.Default)
	}
	seen := make(map[BandwidthInterval]bool, len(l.Intervals))
	for _, interval := range l.Intervals {
		if err := interval.validate(); err != nil {
			return err
		}
		if seen[interval.when()] {
			return Usagef("interval %q is there twice", interval)
		}
		seen[interval.when()] = true
	}
	return nil
}

func (i BandwidthInterval) validate() error {
	switch {
	case i.Days == 0 || i.Days > EveryDay:
		return Usagef("the days %#x of an interval are no days of the week", uint8(i.Days))
	case i.From >= minutesPerDay || i.To > minutesPerDay || i.From == i.To:
		return Usagef("interval %q: %s", i, hoursHint)
	case i.Limit != 0 && i.Limit < MinBandwidth:
		return Usagef("interval %q: %w", i, tooLow(i.Limit))
	}
	return nil
}

func tooLow(limit ByteSize) error {
	return Usagef("%s per second is too little to be meant; use at least %s (like 500KiB, 100MiB), or 0 for no limit", limit,
		ByteSize(MinBandwidth))
}

// Has tells whether the day is in the set.
func (w Weekdays) Has(day time.Weekday) bool { return w>>uint(day)&1 != 0 }

var weekdayNames = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// String is the days as operators write them, "mon-fri,sun"; runs of three and more days are ranges. No day is "".
func (w Weekdays) String() string {
	var parts []string
	for at := 1; at < 8; { // weeks begin on Monday
		end := at
		for end < 8 && w.Has(time.Weekday(end%7)) {
			end++
		}
		switch length := end - at; {
		case length > 2:
			parts = append(parts, weekdayNames[at]+"-"+weekdayNames[(end-1)%7])
		case length > 0:
			for day := at; day < end; day++ {
				parts = append(parts, weekdayNames[day%7])
			}
		}
		at = end + 1
	}
	return strings.Join(parts, ",")
}

// String is when the interval holds, as operators write it: "08:00-18:00", "mon-fri 22:00-06:00", "sat,sun".
func (i BandwidthInterval) String() string {
	hours := fmt.Sprintf("%02d:%02d-%02d:%02d", i.From/60, i.From%60, i.To/60, i.To%60)
	switch {
	case i.Days == EveryDay:
		return hours
	case i.From == 0 && i.To == minutesPerDay:
		return i.Days.String()
	}
	return i.Days.String() + " " + hours
}

// String is the limit for people: "100.0 MiB/s", "unlimited; 08:00-18:00 20.0 MiB/s".
func (l BandwidthLimit) String() string {
	perSecond := func(limit ByteSize) string {
		if limit == 0 {
			return "unlimited"
		}
		return limit.String() + "/s"
	}
	parts := []string{perSecond(l.Default)}
	for _, interval := range l.Intervals {
		parts = append(parts, interval.String()+" "+perSecond(interval.Limit))
	}
	return strings.Join(parts, "; ")
}

const (
	hoursHint    = "write hours like 08:00-18:00 or 22:00-06:00, from 00:00 to 24:00 and not of no length"
	intervalHint = `write default, or in quotes hours like "08:00-18:00", with days before them like "mon-fri 08:00-18:00",` +
		` or days alone like "sat,sun"`
)

var (
	intervalPattern = regexp.MustCompile(`^(?:([a-z,-]+)(?: +|$))?(?:([0-9]{1,2}):([0-9]{2}) ?- ?([0-9]{1,2}):([0-9]{2}))?$`)
	daysPattern     = regexp.MustCompile(`^([a-z]{3})(?:-([a-z]{3}))?$`)
)

// parseInterval reads what BandwidthInterval.String writes.
func parseInterval(text string) (BandwidthInterval, error) {
	match := intervalPattern.FindStringSubmatch(strings.ToLower(strings.TrimSpace(text)))
	if match == nil || match[0] == "" {
		return BandwidthInterval{}, Usagef("interval %q: %s", text, intervalHint)
	}
	interval := BandwidthInterval{Days: EveryDay, To: minutesPerDay}
	if match[1] != "" {
		days, ok := parseWeekdays(match[1])
		if !ok {
			return BandwidthInterval{}, Usagef("interval %q: %q are no days of the week: %s", text, match[1], intervalHint)
		}
		interval.Days = days
	}
	if match[2] != "" {
		from, fromOK := parseMinutes(match[2], match[3])
		to, toOK := parseMinutes(match[4], match[5])
		if !fromOK || !toOK {
			return BandwidthInterval{}, Usagef("interval %q: %s", text, hoursHint)
		}
		interval.From, interval.To = from, to
	}
	return interval, interval.validate()
}

// parseWeekdays reads "mon-fri,sun". A range may pass the week's end.
func parseWeekdays(text string) (Weekdays, bool) {
	var days Weekdays
	for part := range strings.SplitSeq(text, ",") {
		match := daysPattern.FindStringSubmatch(part)
		if match == nil {
			return 0, false
		}
		first, last := slices.Index(weekdayNames[:], match[1]), slices.Index(weekdayNames[:], match[2])
		if match[2] == "" {
			last = first
		}
		if first < 0 || last < 0 {
			return 0, false
		}
		for day := first; ; day = (day + 1) % 7 {
			days |= 1 << day
			if day == last {
				break
			}
		}
	}
	return days, true
}

// parseMinutes reads minutes since midnight, up to 24:00.
func parseMinutes(hours, minutes string) (uint16, bool) {
	h, hErr := strconv.ParseUint(hours, 10, 8)
	m, mErr := strconv.ParseUint(minutes, 10, 8)
	total := h*60 + m
	return uint16(total), hErr == nil && mErr == nil && m < 60 && total <= minutesPerDay
}

// add reads one entry of a limit that is written as a map.
func (l *BandwidthLimit) add(key string, read func(*ByteSize) error) error {
	if key == defaultBandwidth {
		return read(&l.Default)
	}
	interval, err := parseInterval(key)
	if err != nil {
		return err
	}
	if err := read(&interval.Limit); err != nil {
		return err
	}
	l.Intervals = append(l.Intervals, interval)
	return nil
}

// MarshalYAML writes a limit without intervals as one size, and otherwise a map.
func (l BandwidthLimit) MarshalYAML() (any, error) {
	if len(l.Intervals) == 0 {
		return l.Default, nil
	}
	entries := yaml.MapSlice{{Key: defaultBandwidth, Value: l.Default}}
	for _, interval := range l.Intervals {
		entries = append(entries, yaml.MapItem{Key: interval.String(), Value: interval.Limit})
	}
	return entries, nil
}

// UnmarshalYAML reads one size or a map, as operators write them; its errors show the place in the file.
func (l *BandwidthLimit) UnmarshalYAML(node ast.Node) error {
	var read BandwidthLimit
	entries, isMap := node.(ast.MapNode)
	if !isMap {
		if err := read.Default.UnmarshalYAML(node); err != nil {
			return err
		}
		*l = read
		return nil
	}
	for iterator := entries.MapRange(); iterator.Next(); {
		key, value := iterator.Key(), iterator.Value()
		var inValue error
		err := read.add(key.GetToken().Value, func(limit *ByteSize) error {
			inValue = limit.UnmarshalYAML(value)
			return inValue
		})
		switch {
		case inValue != nil:
			return inValue
		case err != nil:
			return &yaml.SyntaxError{Message: err.Error(), Token: key.GetToken()}
		}
	}
	*l = read
	return nil
}

// MarshalJSON writes what MarshalYAML does, with the intervals in order.
func (l BandwidthLimit) MarshalJSON() ([]byte, error) {
	if len(l.Intervals) == 0 {
		return json.Marshal(l.Default)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, `{%q:"%d"`, defaultBandwidth, uint64(l.Default))
	for _, interval := range l.Intervals {
		fmt.Fprintf(&text, `,%q:"%d"`, interval.String(), uint64(interval.Limit))
	}
	text.WriteByte('}')
	return text.Bytes(), nil
}

// UnmarshalJSON reads what MarshalJSON writes, and sizes that are numbers.
func (l *BandwidthLimit) UnmarshalJSON(text []byte) error {
	if bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
		return nil
	}
	var read BandwidthLimit
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	token, err := decoder.Token()
	if err != nil {
		return err
	}
	if token != json.Delim('{') {
		if err := unmarshalToken(token, &read.Default); err != nil {
			return err
		}
		*l = read
		return nil
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		value, err := decoder.Token()
		if err != nil {
			return err
		}
		if err := read.add(fmt.Sprint(key), func(limit *ByteSize) error { return unmarshalToken(value, limit) }); err != nil {
			return err
		}
	}
	*l = read
	return nil
}

// unmarshalToken reads a size that is a string or a number in JSON.
func unmarshalToken(token json.Token, size *ByteSize) error {
	switch token := token.(type) {
	case string:
		return size.UnmarshalText([]byte(token))
	case json.Number:
		return size.UnmarshalText([]byte(token))
	default:
		return Usagef("size %v: write it like 4096, 64KiB, 100MiB or 1.5GiB", token)
	}
}
