package benchmarks

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// meter measures what this process spends; the broker is another process.
type meter struct {
	wall time.Time
	cpu  time.Duration
	gc   runtime.MemStats
}

// figures are what a run has cost.
type figures struct {
	events    int
	wall, cpu time.Duration
	allocated uint64 // bytes
	resident  int64  // bytes, the peak during the run; 0: not known on this system
}

func startMeter() *meter {
	debug.FreeOSMemory()                                      // the garbage of the preparation is not ours
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // resets the peak; absent on other systems
	m := &meter{wall: time.Now(), cpu: cpu()}
	runtime.ReadMemStats(&m.gc)
	return m
}

func (m *meter) stop(events int) figures {
	f := figures{events: events, wall: time.Since(m.wall), cpu: cpu() - m.cpu, resident: peak()}
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	f.allocated = now.TotalAlloc - m.gc.TotalAlloc
	return f
}

// perEvent is the CPU time of one event in microseconds.
func (f figures) perEvent() float64 { return float64(f.cpu.Nanoseconds()) / 1e3 / float64(f.events) }

// report replaces the time per operation, which means nothing here.
func (f figures) report(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(f.perEvent(), "cpu-µs/event")
	b.ReportMetric(float64(f.events)/f.wall.Seconds(), "events/s")
	b.ReportMetric(float64(f.allocated)/float64(f.events), "B/event")
	if f.resident > 0 {
		b.ReportMetric(float64(f.resident)/1e6, "peak-MB")
	}
}

// over reports how many times the CPU of a ceiling this is, if the ceiling was measured in this run.
func (f figures) over(b *testing.B, ceiling figures, name string) {
	if ceiling.events > 0 {
		b.ReportMetric(f.perEvent()/ceiling.perEvent(), "x-"+name)
	}
}

// cpu is the user and system time of this process so far.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(fmt.Sprintf("getrusage of this process: %v", err)) // it cannot fail with these arguments
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// peak is the highest resident set since startMeter.
func peak() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
	fields := bytes.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(string(fields[0]), 10, 64)
	return kib << 10
}
