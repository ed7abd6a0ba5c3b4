from penstock.machine import kernel

METER_DROP = 1


@kernel
def meter(worker, address, packet):
    return 0
