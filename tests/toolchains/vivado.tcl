# SPDX-License-Identifier: MIT
# Stand-ins for the Vivado commands that bitstreams/vivado.tcl uses. This is not Vivado: it records what is asked, knows
# the pins of the few IP cores used (from their product guides), and objects to what Vivado would: unknown names and
# properties, missing files, wrong order, unconnected pins, addresses that do not fit.
# Environment: STANDIN_SCRIPT, the script to run; STANDIN_REPORTS, a folder of reports to hand out; STANDIN_FAIL, what
# goes wrong.

set calls [open calls.txt w]
set project {}
set files {}
set cells [dict create]
set settings [dict create]
set nets [dict create]
set interfaces [dict create]
set segments {}
set state {}
set top {}
set wants $env(STANDIN_FAIL)

proc record {name arguments} {
    puts $::calls [list $name {*}$arguments]
    flush $::calls
}
proc need {condition sentence} {
    if {![uplevel 1 [list expr $condition]]} {
        error $sentence
    }
}
proc reached {step} {
    need [list [expr {$step in $::state}]] "too early: $step comes first"
}
proc options {arguments flags valued} {
    # -> a dictionary of options and, under {}, the plain arguments
    set found [dict create {} {}]
    for {set at 0} {$at < [llength $arguments]} {incr at} {
        set word [lindex $arguments $at]
        if {$word in $flags} {
            dict set found $word 1
        } elseif {$word in $valued} {
            dict set found $word [lindex $arguments [incr at]]
        } elseif {[string match -* $word] && ![string is double $word]} {
            error "unknown option $word"
        } else {
            dict lappend found {} $word
        }
    }
    return $found
}

# Pins of an IP: {clocks and resets that must be connected} {others} {interfaces}
array set ip_pins {
    processing_system7 {{M_AXI_GP0_ACLK} {FCLK_CLK0 FCLK_RESET0_N} {M_AXI_GP0}}
    zynq_ultra_ps_e {{maxihpm0_fpd_aclk} {pl_clk0 pl_resetn0} {M_AXI_HPM0_FPD}}
    proc_sys_reset {{slowest_sync_clk ext_reset_in} {peripheral_aresetn} {}}
    smartconnect {{aclk aresetn} {} {S00_AXI M00_AXI}}
    spikeloop_axi {{s_axi_aclk s_axi_aresetn} {} {s_axi}}
}
# Which settings bring a port into being
array set enables {
    M_AXI_GP0 {CONFIG.PCW_USE_M_AXI_GP0 1}
    FCLK_CLK0 {CONFIG.PCW_EN_CLK0_PORT 1}
    FCLK_RESET0_N {CONFIG.PCW_EN_RST0_PORT 1}
    M_AXI_HPM0_FPD {CONFIG.PSU__USE__M_AXI_GP0 1}
    pl_clk0 {CONFIG.PSU__FPGA_PL0_ENABLE 1}
}
set axi_signals {AWADDR AWPROT AWVALID AWREADY WDATA WSTRB WVALID WREADY BRESP BVALID BREADY ARADDR ARPROT ARVALID \
    ARREADY RDATA RRESP RVALID RREADY}

proc create_project {args} {
    record create_project $args
    set given [options $args {-force} {-part}]
    lassign [dict get $given {}] name folder
    need {[dict get $given -part] in {xc7z020clg400-1 xczu7ev-ffvc1156-2-e}} "no such part"
    file mkdir $folder
    set ::project [file join $folder $name]
}
proc get_board_parts {args} {
    record get_board_parts $args
    options $args {-quiet} {}
    return [expr {$::wants eq "no board files" ? {} : [string map {* 1.0} [lindex $args end]]}]
}
proc current_project {} { return project:$::project }
proc current_fileset {} { return fileset:sources_1 }
proc add_files {args} {
    record add_files $args
    foreach file [concat {*}[dict get [options $args {-norecurse} {-fileset}] {}]] {
        need {[file isfile $file]} "no file $file"
        lappend ::files $file
    }
}
proc update_compile_order {args} { record update_compile_order $args; options $args {} {-fileset} }
proc create_bd_design {name} { record create_bd_design $name; lappend ::state design }
proc get_ipdefs {pattern} {
    record get_ipdefs [list $pattern]
    lassign [split $pattern :] vendor library name
    need {$vendor eq "xilinx.com" && $library eq "ip" && [info exists ::ip_pins($name)]} "no IP $pattern"
    return "ipdef:$vendor:$library:$name"
}
proc create_bd_cell {args} {
    record create_bd_cell $args
    reached design
    set given [options $args {} {-type -vlnv -reference}]
    set name [dict get $given {}]
    need {![dict exists $::cells $name]} "cell $name is there already"
    if {[dict get $given -type] eq "module"} {
        set kind [dict get $given -reference]
        need {[lsearch -glob $::files "*$kind.v"] >= 0} "module $kind is in no source file"
        set text [read [set channel [open $kind.v]]][close $channel]
        need {[regexp "module $kind " $text]} "no module $kind"
        foreach signal $::axi_signals {
            need {[regexp "xilinx.com:interface:aximm:1.0 s_axi $signal\"" $text]} "the interface lacks $signal"
        }
    } else {
        set kind [lindex [split [dict get $given -vlnv] :] 2]
    }
    need {[info exists ::ip_pins($kind)]} "no IP or module $kind"
    dict set ::cells $name $kind
    return cell:$name
}
proc apply_bd_automation {args} {
    record apply_bd_automation $args
    set given [options $args {} {-rule -config}]
    set kind [dict get $::cells [string range [dict get $given {}] 5 end]]
    need {[dict get $given -rule] eq "xilinx.com:bd_rule:$kind"} "no such rule"
    need {[llength [dict get $given -config]] % 2 == 0} "the configuration is not of names and values"
}
proc set_property {args} {
    record set_property $args
    set given [options $args {} {-dict}]
    set rest [dict get $given {}]
    set object [lindex $rest end]
    set values [expr {[dict exists $given -dict] ? [dict get $given -dict] : [lrange $rest 0 1]}]
    need {[llength $values] % 2 == 0} "properties are names and values"
    foreach {name value} $values {
        if {[string match cell:* $object]} {
            need {[string match CONFIG.* $name]} "a cell has no property $name"
            dict set ::settings [string range $object 5 end] $name $value
        } elseif {$name eq "top"} {
            need {$object eq "fileset:sources_1"} "top is a file set's"
            set ::top $value
        } else {
            need {$name eq "board_part" && [string match project:* $object]} "no property $name of $object"
        }
    }
}
proc get_bd_pins {path} {
    lassign [split $path /] cell pin
    lassign $::ip_pins([dict get $::cells $cell]) needed others
    need {$pin in [concat $needed $others]} "no pin $path"
    exists $cell $pin
    return pin:$path
}
proc get_bd_intf_pins {path} {
    lassign [split $path /] cell pin
    need {$pin in [lindex $::ip_pins([dict get $::cells $cell]) 2]} "no interface $path"
    exists $cell $pin
    return interface:$path
}
proc exists {cell pin} {
    if {[info exists ::enables($pin)]} {
        lassign $::enables($pin) name value
        need {[dict exists $::settings $cell $name] && [dict get $::settings $cell $name] eq $value} \
            "$cell/$pin needs $name $value"
    }
}
proc connect_bd_net {args} {
    record connect_bd_net $args
    need {[llength $args] > 1} "a net has two pins at least"
    foreach pin $args {
        need {[string match pin:* $pin]} "$pin is no pin"
        dict lappend ::nets $pin $args
    }
}
proc connect_bd_intf_net {args} {
    record connect_bd_intf_net $args
    need {[llength $args] == 2} "an interface net has two ends"
    foreach pin $args {
        need {[string match interface:* $pin]} "$pin is no interface"
        need {![dict exists $::interfaces $pin]} "$pin is connected already"
        dict set ::interfaces $pin 1
    }
}
proc get_bd_addr_spaces {path} {
    need {$path eq "ps/Data"} "no address space $path"
    return space:$path
}
proc get_bd_addr_segs {path} {
    need {$path eq "spikeloop/s_axi/reg0"} "no address segment $path"
    return segment:$path
}
proc assign_bd_address {args} {
    record assign_bd_address $args
    set given [options $args {-force} {-offset -range -target_address_space}]
    need {[dict get $given -target_address_space] eq "space:ps/Data"} "no such space"
    need {[scan [dict get $given -range] %dK kilobytes] == 1} "no range"
    need {[dict get $given -offset] % (1024 * $kilobytes) == 0} "the offset is no multiple of the range"
    lassign [expr {[dict get $::cells ps] eq "processing_system7" ? {0x40000000 0x7fffffff} : {0xa0000000 0xafffffff}}] \
        first last
    need {[dict get $given -offset] >= $first && [dict get $given -offset] + 1024 * $kilobytes - 1 <= $last} \
        "not an address of the processor's port"
    set ::segments [dict get $given {}]
}
proc validate_bd_design {} {
    record validate_bd_design {}
    dict for {cell kind} $::cells {
        lassign $::ip_pins($kind) needed others interfaces
        foreach pin $needed {
            need {[dict exists $::nets pin:$cell/$pin]} "$cell/$pin is not connected"
        }
        foreach pin $interfaces {
            need {[dict exists $::interfaces interface:$cell/$pin]} "$cell/$pin is not connected"
        }
    }
    need {$::segments eq "segment:spikeloop/s_axi/reg0"} "a slave without an address"
    lappend ::state valid
}
proc get_property {name object} {
    if {[string match ipdef:* $object]} {
        need {$name eq "VLNV"} "an IP has no $name"
        return [list [string range $object 6 end]:1.0 [string range $object 6 end]:12.0 [string range $object 6 end]:5.5]
    }
    switch -glob $name {
        PROGRESS { return [expr {$::wants eq $object ? "60%" : "100%"}] }
        STATUS { return "route_design ERROR" }
        PERIOD { return [expr {$::wants eq "wrong period" ? 20.0 : 1000.0 / [requested]}] }
        CONFIG.PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ - CONFIG.PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ {
            reached valid
            need {[regexp PCW $name] == ([dict get $::cells ps] eq "processing_system7")} "no property $name"
            # a ZCU104's crystal has 33.333 MHz: the processor's clocks lie a little below the round figures
            return [expr {$::wants eq "wrong clock" ? 90.909 : 0.99999 * [requested]}]
        }
    }
    error "no property $name of $object"
}
proc requested {} {
    foreach name {CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ} {
        if {[dict exists $::settings ps $name]} {
            return [dict get $::settings ps $name]
        }
    }
    error "no clock was asked for"
}
proc save_bd_design {} { record save_bd_design {}; reached valid; lappend ::state saved }
proc get_files {name} {
    need {$name eq "system.bd"} "no file $name"
    return $name
}
proc generate_target {what files} { record generate_target [list $what $files]; reached saved; lappend ::state generated }
proc make_wrapper {args} {
    record make_wrapper $args
    reached generated
    options $args {-top} {-files}
    close [open system_wrapper.v w]
    return system_wrapper.v
}
proc launch_runs {args} {
    record launch_runs $args
    set given [options $args {} {-jobs -to_step}]
    set run [dict get $given {}]
    need {$::top eq "system_wrapper" && [lsearch $::files system_wrapper.v] >= 0} "the top is not the wrapper"
    if {$run eq "impl_1"} {
        reached synth_1
        need {[dict get $given -to_step] eq "write_bitstream"} "no bitstream is asked for"
        file mkdir $::project.runs/impl_1 $::project.gen/sources_1/bd/system/hw_handoff
        set bit [open $::project.runs/impl_1/system_wrapper.bit wb]
        puts -nonewline $bit "header[binary format H* ffffffffaa995566]not a bitstream"
        close $bit
        if {$::wants ne "no handoff"} {
            set handoff [open $::project.gen/sources_1/bd/system/hw_handoff/system.hwh w]
            puts $handoff "<EDKSYSTEM/>"
            close $handoff
        }
    } else {
        need {$run eq "synth_1"} "no run $run"
    }
    lappend ::state launched_$run
}
proc wait_on_run {run} { record wait_on_run [list $run]; reached launched_$run; lappend ::state $run }
proc get_runs {run} { reached $run; return $run }
proc open_run {run} { record open_run [list $run]; need {$run eq "impl_1"} "not the placed one"; reached impl_1; lappend ::state opened }
proc get_clocks {args} {
    reached opened
    set name [dict get [options $args {-quiet} {}] {}]
    set there [expr {[dict get $::cells ps] eq "processing_system7" ? "clk_fpga_0" : "clk_pl_0"}]
    return [expr {$name eq $there && $::wants ne "no clock" ? $name : {}}]
}
proc hand_out {name arguments} {
    record $name $arguments
    reached opened
    set given [options $arguments {} {-file -max_paths -nworst -sort_by}]
    file copy -force [file join $::env(STANDIN_REPORTS) [dict get $given -file]] [dict get $given -file]
}
proc report_timing_summary {args} { hand_out report_timing_summary $args }
proc report_timing {args} { hand_out report_timing $args }
proc report_utilization {args} { hand_out report_utilization $args }

# An error that the script does not catch ends Vivado with a line like this
if {[catch {source $env(STANDIN_SCRIPT)} said]} {
    puts stderr "ERROR: $said"
    exit 1
}
