// SPDX-License-Identifier: MIT
// Stand-ins for the Zynq-7000's processor and a clock buffer in simulation: cocotb plays the processor, through these
// registers. The bursts that cocotbext-axi knows are longer (AXI4); the port cuts them to AXI3's 16 beats.

module PS7 (
    input MAXIGP0ACLK,
    output [3:0] FCLKCLK,
    output [3:0] FCLKRESETN,
    output [11:0] MAXIGP0AWID,
    output [31:0] MAXIGP0AWADDR,
    output [3:0] MAXIGP0AWLEN,
    output [1:0] MAXIGP0AWSIZE,
    output [1:0] MAXIGP0AWBURST,
    output [2:0] MAXIGP0AWPROT,
    output MAXIGP0AWVALID,
    input MAXIGP0AWREADY,
    output [31:0] MAXIGP0WDATA,
    output [3:0] MAXIGP0WSTRB,
    output MAXIGP0WVALID,
    input MAXIGP0WREADY,
    input [11:0] MAXIGP0BID,
    input [1:0] MAXIGP0BRESP,
    input MAXIGP0BVALID,
    output MAXIGP0BREADY,
    output [11:0] MAXIGP0ARID,
    output [31:0] MAXIGP0ARADDR,
    output [3:0] MAXIGP0ARLEN,
    output [1:0] MAXIGP0ARSIZE,
    output [1:0] MAXIGP0ARBURST,
    output [2:0] MAXIGP0ARPROT,
    output MAXIGP0ARVALID,
    input MAXIGP0ARREADY,
    input [11:0] MAXIGP0RID,
    input [31:0] MAXIGP0RDATA,
    input [1:0] MAXIGP0RRESP,
    input MAXIGP0RLAST,
    input MAXIGP0RVALID,
    output MAXIGP0RREADY
);
    reg clock = 0, resetn = 0;
    assign FCLKCLK = {3'd0, clock};
    assign FCLKRESETN = {3'd0, resetn};

    reg [11:0] m_axi_awid = 0, m_axi_arid = 0;
    reg [31:0] m_axi_awaddr = 0, m_axi_araddr = 0, m_axi_wdata = 0;
    reg [7:0] m_axi_awlen = 0, m_axi_arlen = 0;
    reg [2:0] m_axi_awsize = 0, m_axi_arsize = 0, m_axi_awprot = 0, m_axi_arprot = 0;
    reg [1:0] m_axi_awburst = 0, m_axi_arburst = 0;
    reg [3:0] m_axi_wstrb = 0;
    reg m_axi_awvalid = 0, m_axi_wvalid = 0, m_axi_wlast = 0, m_axi_bready = 0, m_axi_arvalid = 0, m_axi_rready = 0;
    wire m_axi_awready = MAXIGP0AWREADY, m_axi_wready = MAXIGP0WREADY, m_axi_arready = MAXIGP0ARREADY;
    wire m_axi_bvalid = MAXIGP0BVALID, m_axi_rvalid = MAXIGP0RVALID, m_axi_rlast = MAXIGP0RLAST;
    wire [11:0] m_axi_bid = MAXIGP0BID, m_axi_rid = MAXIGP0RID;
    wire [1:0] m_axi_bresp = MAXIGP0BRESP, m_axi_rresp = MAXIGP0RRESP;
    wire [31:0] m_axi_rdata = MAXIGP0RDATA;

    assign MAXIGP0AWID = m_axi_awid;
    assign MAXIGP0AWADDR = m_axi_awaddr;
    assign MAXIGP0AWLEN = m_axi_awlen[3:0];
    assign MAXIGP0AWSIZE = m_axi_awsize[1:0];
    assign MAXIGP0AWBURST = m_axi_awburst;
    assign MAXIGP0AWPROT = m_axi_awprot;
    assign MAXIGP0AWVALID = m_axi_awvalid;
    assign MAXIGP0WDATA = m_axi_wdata;
    assign MAXIGP0WSTRB = m_axi_wstrb;
    assign MAXIGP0WVALID = m_axi_wvalid;
    assign MAXIGP0BREADY = m_axi_bready;
    assign MAXIGP0ARID = m_axi_arid;
    assign MAXIGP0ARADDR = m_axi_araddr;
    assign MAXIGP0ARLEN = m_axi_arlen[3:0];
    assign MAXIGP0ARSIZE = m_axi_arsize[1:0];
    assign MAXIGP0ARBURST = m_axi_arburst;
    assign MAXIGP0ARPROT = m_axi_arprot;
    assign MAXIGP0ARVALID = m_axi_arvalid;
    assign MAXIGP0RREADY = m_axi_rready;
endmodule

module BUFG (
    input  I,
    output O
);
    assign O = I;
endmodule
