# SPDX-License-Identifier: MIT
# Block design, synthesis, place and route, bitstream, reports: everything beside this file.
#
# Reads settings.tcl, which `python -m bitstreams.build` writes. By hand: vivado -mode batch -source build.tcl

proc stop {sentence} {
    puts stderr "spikeloop: $sentence"
    exit 1
}

proc newest {ip} {
    set found [lsort -dictionary [get_property VLNV [get_ipdefs "xilinx.com:ip:$ip:*"]]]
    if {![llength $found]} {
        stop "this Vivado has no IP $ip"
    }
    return [lindex $found end]
}

proc finish {run} {
    wait_on_run $run
    if {[get_property PROGRESS [get_runs $run]] ne "100%"} {
        stop "$run ended with: [get_property STATUS [get_runs $run]]"
    }
}

cd [file dirname [file normalize [info script]]]
source settings.tcl

# Project. The processor's preset comes with the board files where they are installed. Without them the bitstream is the
# same: memory controller and pins are set up by the boot loader, not by the bitstream.
create_project -force spikeloop project -part $part
set boards [lsort -dictionary [get_board_parts -quiet "$board_part:*"]]
if {[llength $boards]} {
    set_property board_part [lindex $boards end] [current_project]
}
add_files -norecurse [list spikeloop.v spikeloop_axi.v]
update_compile_order -fileset sources_1

# Processor, its clock, the circuit, and the bus between them
create_bd_design system
set ps [create_bd_cell -type ip -vlnv [newest $ps_ip] ps]
apply_bd_automation -rule "xilinx.com:bd_rule:$ps_ip" -config $ps_automation $ps
set_property -dict $ps_settings $ps
create_bd_cell -type module -reference spikeloop_axi spikeloop
create_bd_cell -type ip -vlnv [newest proc_sys_reset] reset
set bus [create_bd_cell -type ip -vlnv [newest smartconnect] bus]
set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 1] $bus
connect_bd_net [get_bd_pins ps/$ps_clock_pin] [get_bd_pins ps/$ps_bus_clock_pin] [get_bd_pins reset/slowest_sync_clk] \
    [get_bd_pins bus/aclk] [get_bd_pins spikeloop/s_axi_aclk]
connect_bd_net [get_bd_pins ps/$ps_reset_pin] [get_bd_pins reset/ext_reset_in]
connect_bd_net [get_bd_pins reset/peripheral_aresetn] [get_bd_pins bus/aresetn] [get_bd_pins spikeloop/s_axi_aresetn]
connect_bd_intf_net [get_bd_intf_pins ps/$ps_port] [get_bd_intf_pins bus/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins bus/M00_AXI] [get_bd_intf_pins spikeloop/s_axi]
assign_bd_address -offset $base -range $range -target_address_space [get_bd_addr_spaces ps/Data] \
    [get_bd_addr_segs spikeloop/s_axi/reg0] -force
validate_bd_design
set made [get_property $ps_made_mhz $ps]
if {abs($made - $mhz) > 0.001 * $mhz} {
    stop "the processor makes $made MHz, not $mhz: its PLL is not at the frequency that bitstreams/boards.py says"
}
save_bd_design
generate_target all [get_files system.bd]
add_files -norecurse [make_wrapper -files [get_files system.bd] -top]
set_property top system_wrapper [current_fileset]
update_compile_order -fileset sources_1

# Build
launch_runs synth_1 -jobs $jobs
finish synth_1
launch_runs impl_1 -to_step write_bitstream -jobs $jobs
finish impl_1

# Report. The clock's constraint comes with the processor; without it the timing reports would say nothing.
open_run impl_1
set clock [get_clocks -quiet $ps_clock]
if {![llength $clock]} {
    stop "there is no clock $ps_clock: the circuit was built without a timing constraint"
}
set period [get_property PERIOD $clock]
if {abs($period - 1000.0 / $mhz) > 0.001 * $period} {
    stop "the clock $ps_clock has a period of $period ns, not that of $mhz MHz"
}
report_timing_summary -file timing_summary.rpt
report_timing -max_paths $paths -nworst 1 -sort_by slack -file timing_paths.rpt
report_utilization -file utilization.rpt

# Hand over. The handoff file lies in .gen, or in .srcs before Vivado 2020.2.
file copy -force project/spikeloop.runs/impl_1/system_wrapper.bit spikeloop.bit
set handoff [glob -nocomplain project/spikeloop.{gen,srcs}/sources_1/bd/system/hw_handoff/system.hwh]
if {![llength $handoff]} {
    stop "Vivado wrote no hardware handoff file"
}
file copy -force [lindex $handoff 0] spikeloop.hwh
