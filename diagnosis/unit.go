package diagnosis

import (
	"math"
	"strconv"
	"time"
)

// Unit is what a reading counts.
type Unit string

// The units of readings.
const (
	Number  Unit = ""
	Bytes   Unit = "B"
	Rate    Unit = "B/s"
	Share   Unit = "share"  // of 1
	Seconds Unit = "s"      // of a duration
	Yes     Unit = "yes/no" // 1 or 0
)

// Format writes a value for people.
func (u Unit) Format(v float64) string {
	switch u {
	case Bytes:
		return size(v)
	case Rate:
		return size(v) + "/s"
	case Share:
		return strconv.FormatFloat(math.Round(1000*v)/10, 'f', -1, 64) + "%"
	case Seconds:
		return duration(v)
	case Yes:
		if v > 0 {
			return "yes"
		}
		return "no"
	}
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

func size(v float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if math.Abs(v) < 1024 {
			return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) + unit
		}
		v /= 1024
	}
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) + "TiB"
}

func duration(v float64) string {
	d := time.Duration(v * float64(time.Second))
	if d.Abs() >= time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
