package keeper

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// systemd is the service manager, when one started this process (sd_notify(3)).
type systemd struct {
	log           *slog.Logger
	watchdogEvery time.Duration // 0: no watchdog
}

func newSystemd(log *slog.Logger) systemd {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog setting cannot be read, it is not served", "error", err)
		every = 0
	}
	return systemd{log: log, watchdogEvery: every / 2}
}

func (s systemd) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("systemd cannot be told", "state", state, "error", err)
	}
}

func (s systemd) ready(status string) { s.tell(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// reloading tells with the time, as services of Type=notify-reload must.
func (s systemd) reloading() {
	s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}
