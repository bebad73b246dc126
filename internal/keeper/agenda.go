package keeper

import "time"

// task is something the keeper does at a time.
type task string

const (
	taskPulse    task = "pulse"    // look after the workers, refresh the alive element
	taskRestart  task = "restart"  // start a worker in place of one that ended
	taskDrain    task = "drain"    // stop accepting, when stopping
	taskRepair   task = "repair"   // bring the kernel back to the plan
	taskWatch    task = "watch"    // listen to the kernel again after that failed
	taskMonitor  task = "monitor"  // start a monitor in place of one that ended
	taskMeasure  task = "measure"  // read what links carry
	taskWatchdog task = "watchdog" // tell systemd that the keeper turns
)

// agenda holds when each task is due next.
type agenda map[task]time.Time

// at plans a task, in place of its former time.
func (a agenda) at(t task, when time.Time) { a[t] = when }

// atLatest plans a task, unless it is due earlier anyway.
func (a agenda) atLatest(t task, when time.Time) {
	if old, planned := a[t]; !planned || when.Before(old) {
		a[t] = when
	}
}

// drop forgets a task.
func (a agenda) drop(t task) { delete(a, t) }

// take returns a task that is due and forgets it.
func (a agenda) take(now time.Time) (task, bool) {
	for t, when := range a {
		if !when.After(now) {
			delete(a, t)
			return t, true
		}
	}
	return "", false
}

// next returns how long it is until something is due.
func (a agenda) next(now time.Time) time.Duration {
	wait := time.Minute
	for _, when := range a {
		wait = min(wait, when.Sub(now))
	}
	return max(wait, 0)
}
