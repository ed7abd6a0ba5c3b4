from penstock.machine import entry, kernel

EXPIRED, CANNOT = 1, 2


@entry("int64(int64, int64, int64)")
def edit(worker, packet, operation):
    return 0


@kernel
def follow(packet, kind):
    return 0
