package nft

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/diff"
	"salp/internal/kernel/wire"
	"salp/internal/plan"
)

// Attributes of include/uapi/linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	flowtableTable = 1 // NFTA_FLOWTABLE_TABLE
	flowtableName  = 2 // NFTA_FLOWTABLE_NAME
	flowtableHook  = 3 // NFTA_FLOWTABLE_HOOK
	flowtableFlags = 7 // NFTA_FLOWTABLE_FLAGS

	flowtableHookNum  = 1 // NFTA_FLOWTABLE_HOOK_NUM
	flowtablePriority = 2 // NFTA_FLOWTABLE_HOOK_PRIORITY
	flowtableDevices  = 3 // NFTA_FLOWTABLE_HOOK_DEVS

	deviceName       = 1 // NFTA_DEVICE_NAME
	flowName         = 1 // NFTA_FLOW_TABLE_NAME
	flowtableCounter = 2 // NFT_FLOWTABLE_COUNTER, Linux 5.7
	netdevIngress    = 0 // NF_NETDEV_INGRESS
)

// flowtable is one as the kernel holds it.
type flowtable struct {
	name    string
	devices []string // sorted; those that are gone have left it
	counts  bool
}

func flowtableObject(table, name string) string { return "nft flowtable inet " + table + " " + name }

func (t *transaction) addFlowtable(table string, f plan.Flowtable) {
	var devices []wire.Attr
	for _, d := range f.Devices {
		devices = append(devices, wire.String(deviceName, d))
	}
	t.add(unix.NFT_MSG_NEWFLOWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, flowtableObject(table, f.Name),
		wire.String(flowtableTable, table), wire.String(flowtableName, f.Name),
		wire.Nest(flowtableHook, be32(flowtableHookNum, netdevIngress), be32(flowtablePriority, 0), wire.Nest(flowtableDevices, devices...)),
		be32(flowtableFlags, flowtableCounter))
}

func (t *transaction) delFlowtable(table, name string) {
	t.add(unix.NFT_MSG_DELFLOWTABLE, 0, flowtableObject(table, name), wire.String(flowtableTable, table), wire.String(flowtableName, name))
}

// readFlowtables reads a table's. A kernel without any has none.
func readFlowtables(s *wire.Socket, t *table) error {
	list, err := dump(s, unix.NFT_MSG_GETFLOWTABLE, "flowtables of nft table inet "+t.name, wire.String(flowtableTable, t.name))
	if wire.Is(err, unix.EOPNOTSUPP, unix.EINVAL) {
		return nil
	}
	for _, as := range list {
		if as.String(flowtableTable) != t.name {
			continue
		}
		f := flowtable{name: as.String(flowtableName), counts: as.BE32(flowtableFlags)&flowtableCounter != 0}
		for _, d := range as.Nested(flowtableHook).Nested(flowtableDevices) {
			f.devices = append(f.devices, strings.TrimRight(string(d.Data), "\x00"))
		}
		slices.Sort(f.devices)
		t.flowtables = append(t.flowtables, f)
	}
	return err
}

// compareFlowtables returns those to make and the names of those to remove; one that is not as wanted is removed and made: its flows pass the
// rules again, and find the new one.
func (w *work) compareFlowtables(want plan.Table, live *table) (make []plan.Flowtable, drop []string) {
	for _, f := range want.Flowtables {
		n := slices.IndexFunc(live.flowtables, func(o flowtable) bool { return o.name == f.Name })
		switch {
		case n < 0:
			make = append(make, f)
			w.note(diff.Add, flowtableObject(want.Name, f.Name), "", strings.Join(f.Devices, ", "))
		case !slices.Equal(live.flowtables[n].devices, f.Devices) || !live.flowtables[n].counts:
			make, drop = append(make, f), append(drop, f.Name)
			w.note(diff.Alter, flowtableObject(want.Name, f.Name), strings.Join(live.flowtables[n].devices, ", "), strings.Join(f.Devices, ", "))
		}
	}
	for _, old := range live.flowtables {
		if !slices.ContainsFunc(want.Flowtables, func(f plan.Flowtable) bool { return f.Name == old.name }) {
			drop = append(drop, old.name)
			w.note(diff.Remove, flowtableObject(want.Name, old.name), strings.Join(old.devices, ", "), "")
		}
	}
	return make, drop
}
