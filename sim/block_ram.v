// SPDX-License-Identifier: MIT
// Block RAMs of 7-series devices as they behave (UG473), for simulating a synthesised netlist: yosys' own models of
// them have timing only. True and simple dual port, all widths, all write modes, byte write enables; no output
// registers, no cascades, and both ports on one clock, as yosys infers them here. Memories start as zeros.

module block_ram #(
    parameter ADDRESS_BITS = 15,  // of single bits, parity apart
    parameter READ_WIDTH_A = 0,
    parameter READ_WIDTH_B = 0,
    parameter WRITE_WIDTH_A = 0,
    parameter WRITE_WIDTH_B = 0,
    parameter WRITE_MODE_A = "WRITE_FIRST",
    parameter WRITE_MODE_B = "WRITE_FIRST"
) (
    input clk,
    input [ADDRESS_BITS-1:0] address_a,
    input [ADDRESS_BITS-1:0] address_b,
    input enable_a,
    input enable_b,
    input reset_a,
    input reset_b,
    input [7:0] write_a,
    input [7:0] write_b,
    input [71:0] in_a,  // a parity bit above each octet
    input [71:0] in_b,
    output reg [71:0] out_a,
    output reg [71:0] out_b
);
    localparam OCTETS = 1 << (ADDRESS_BITS - 3);
    reg [8:0] memory[0:OCTETS-1];
    integer index;
    initial begin
        for (index = 0; index < OCTETS; index = index + 1) memory[index] = 0;
        out_a = 0;
        out_b = 0;
    end

    // Octets side by side in a word of so many bits, and the mask of a word's bits in its octets
    function automatic integer lanes(input integer width);
        lanes = width < 18 ? 1 : width / 9;
    endfunction

    function automatic [71:0] word(input [ADDRESS_BITS-1:0] address, input integer width);
        integer lane, first;
        begin
            word = 0;
            first = (address >> 3) & ~(lanes(width) - 1);
            for (lane = 0; lane < lanes(width); lane = lane + 1)
                if (lane < 8) word[9*lane+:9] = memory[first+lane];
            if (width < 9) word = (word >> (address[2:0] & ~(width - 1))) & ((1 << width) - 1);
        end
    endfunction

    task automatic store(input [ADDRESS_BITS-1:0] address, input integer width, input [7:0] enables, input [71:0] data);
        integer lane, first, shift;
        reg [8:0] mask;
        begin
            first = (address >> 3) & ~(lanes(width) - 1);
            shift = width < 9 ? address[2:0] & ~(width - 1) : 0;
            mask  = width < 9 ? ((1 << width) - 1) << shift : 9'h1ff;
            for (lane = 0; lane < lanes(width); lane = lane + 1)
                if (lane < 8 && enables[lane])
                    memory[first+lane] = (memory[first+lane] & ~mask) | ((data[9*lane+:9] << shift) & mask);
        end
    endtask

    // Port A reads and writes before port B does: the design must not depend on it where they meet
    always @(posedge clk) begin
        if (enable_a) begin
            if (READ_WIDTH_A != 0 && (WRITE_MODE_A == "READ_FIRST" || write_a == 0))
                out_a <= reset_a ? 0 : word(address_a, READ_WIDTH_A);
        end
        if (enable_b) begin
            if (READ_WIDTH_B != 0 && (WRITE_MODE_B == "READ_FIRST" || write_b == 0))
                out_b <= reset_b ? 0 : word(address_b, READ_WIDTH_B);
        end
        if (enable_a && WRITE_WIDTH_A != 0) store(address_a, WRITE_WIDTH_A, write_a, in_a);
        if (enable_b && WRITE_WIDTH_B != 0) store(address_b, WRITE_WIDTH_B, write_b, in_b);
        if (enable_a && WRITE_MODE_A == "WRITE_FIRST" && READ_WIDTH_A != 0 && write_a != 0)
            out_a <= reset_a ? 0 : word(address_a, READ_WIDTH_A);
        if (enable_b && WRITE_MODE_B == "WRITE_FIRST" && READ_WIDTH_B != 0 && write_b != 0)
            out_b <= reset_b ? 0 : word(address_b, READ_WIDTH_B);
    end
endmodule

module RAMB18E1 #(
    parameter RAM_MODE = "TDP",
    parameter integer READ_WIDTH_A = 0,
    parameter integer READ_WIDTH_B = 0,
    parameter integer WRITE_WIDTH_A = 0,
    parameter integer WRITE_WIDTH_B = 0,
    parameter WRITE_MODE_A = "WRITE_FIRST",
    parameter WRITE_MODE_B = "WRITE_FIRST",
    parameter integer DOA_REG = 0,
    parameter integer DOB_REG = 0
) (
    input CLKARDCLK,
    input CLKBWRCLK,
    input ENARDEN,
    input ENBWREN,
    input REGCEAREGCE,
    input REGCEB,
    input RSTRAMARSTRAM,
    input RSTRAMB,
    input RSTREGARSTREG,
    input RSTREGB,
    input [13:0] ADDRARDADDR,
    input [13:0] ADDRBWRADDR,
    input [15:0] DIADI,
    input [15:0] DIBDI,
    input [1:0] DIPADIP,
    input [1:0] DIPBDIP,
    input [1:0] WEA,
    input [3:0] WEBWE,
    output [15:0] DOADO,
    output [15:0] DOBDO,
    output [1:0] DOPADOP,
    output [1:0] DOPBDOP
);
    // In simple dual port mode the two data ports lie side by side: A reads, B writes
    localparam SIDE_BY_SIDE = RAM_MODE == "SDP";
    generate
        if (DOA_REG != 0 || DOB_REG != 0) $error("RAMB18E1 with output registers is not modelled");
        if (SIDE_BY_SIDE && (READ_WIDTH_A != 36 || WRITE_WIDTH_B != 36))
            $error("RAMB18E1 in simple dual port mode is modelled at 36 bits only");
    endgenerate
    wire [31:0] in_a = {DIBDI, DIADI};
    wire [31:0] in_b = SIDE_BY_SIDE ? {DIBDI, DIADI} : {16'd0, DIBDI};
    wire [3:0] parity_a = {DIPBDIP, DIPADIP};
    wire [3:0] parity_b = SIDE_BY_SIDE ? {DIPBDIP, DIPADIP} : {2'd0, DIPBDIP};
    wire [71:0] words_a, words_b, out_a, out_b;
    wire [31:0] data_a, data_b;
    wire [3:0] above_a, above_b;
    genvar lane;
    generate
        for (lane = 0; lane < 8; lane = lane + 1) begin
            if (lane < 4) begin
                assign words_a[9*lane+:9] = {parity_a[lane], in_a[8*lane+:8]};
                assign words_b[9*lane+:9] = {parity_b[lane], in_b[8*lane+:8]};
                assign {above_a[lane], data_a[8*lane+:8]} = out_a[9*lane+:9];
                assign {above_b[lane], data_b[8*lane+:8]} = out_b[9*lane+:9];
            end else begin
                assign words_a[9*lane+:9] = 9'd0;
                assign words_b[9*lane+:9] = 9'd0;
            end
        end
    endgenerate
    assign {DOPADOP, DOADO} = {above_a[1:0], data_a[15:0]};
    assign DOBDO = SIDE_BY_SIDE ? data_a[31:16] : data_b[15:0];
    assign DOPBDOP = SIDE_BY_SIDE ? above_a[3:2] : above_b[1:0];
    block_ram #(
        14,
        READ_WIDTH_A,
        READ_WIDTH_B,
        WRITE_WIDTH_A,
        WRITE_WIDTH_B,
        WRITE_MODE_A,
        WRITE_MODE_B
    ) ram (
        .clk(CLKARDCLK),
        .address_a(ADDRARDADDR[13:0]),
        .address_b(ADDRBWRADDR[13:0]),
        .enable_a(ENARDEN),
        .enable_b(ENBWREN),
        .reset_a(RSTRAMARSTRAM),
        .reset_b(RSTRAMB),
        .write_a({6'd0, WEA}),
        .write_b({4'd0, WEBWE}),
        .in_a(words_a),
        .in_b(words_b),
        .out_a(out_a),
        .out_b(out_b)
    );
endmodule

module RAMB36E1 #(
    parameter RAM_MODE = "TDP",
    parameter RAM_EXTENSION_A = "NONE",
    parameter RAM_EXTENSION_B = "NONE",
    parameter integer READ_WIDTH_A = 0,
    parameter integer READ_WIDTH_B = 0,
    parameter integer WRITE_WIDTH_A = 0,
    parameter integer WRITE_WIDTH_B = 0,
    parameter WRITE_MODE_A = "WRITE_FIRST",
    parameter WRITE_MODE_B = "WRITE_FIRST",
    parameter integer DOA_REG = 0,
    parameter integer DOB_REG = 0
) (
    input CLKARDCLK,
    input CLKBWRCLK,
    input ENARDEN,
    input ENBWREN,
    input REGCEAREGCE,
    input REGCEB,
    input RSTRAMARSTRAM,
    input RSTRAMB,
    input RSTREGARSTREG,
    input RSTREGB,
    input [15:0] ADDRARDADDR,
    input [15:0] ADDRBWRADDR,
    input [31:0] DIADI,
    input [31:0] DIBDI,
    input [3:0] DIPADIP,
    input [3:0] DIPBDIP,
    input [3:0] WEA,
    input [7:0] WEBWE,
    output [31:0] DOADO,
    output [31:0] DOBDO,
    output [3:0] DOPADOP,
    output [3:0] DOPBDOP
);
    // In simple dual port mode the two data ports lie side by side: A reads, B writes
    localparam SIDE_BY_SIDE = RAM_MODE == "SDP";
    generate
        if (RAM_EXTENSION_A != "NONE" || RAM_EXTENSION_B != "NONE") $error("a cascade of RAMB36E1 is not modelled");
        if (DOA_REG != 0 || DOB_REG != 0) $error("RAMB36E1 with output registers is not modelled");
        if (SIDE_BY_SIDE && (READ_WIDTH_A != 72 || WRITE_WIDTH_B != 72))
            $error("RAMB36E1 in simple dual port mode is modelled at 72 bits only");
    endgenerate
    wire [63:0] in_a = {DIBDI, DIADI};
    wire [63:0] in_b = SIDE_BY_SIDE ? {DIBDI, DIADI} : {32'd0, DIBDI};
    wire [7:0] parity_a = {DIPBDIP, DIPADIP};
    wire [7:0] parity_b = SIDE_BY_SIDE ? {DIPBDIP, DIPADIP} : {4'd0, DIPBDIP};
    wire [71:0] words_a, words_b, out_a, out_b;
    wire [63:0] data_a, data_b;
    wire [7:0] above_a, above_b;
    genvar lane;
    generate
        for (lane = 0; lane < 8; lane = lane + 1) begin
            if (lane < 8) begin
                assign words_a[9*lane+:9] = {parity_a[lane], in_a[8*lane+:8]};
                assign words_b[9*lane+:9] = {parity_b[lane], in_b[8*lane+:8]};
                assign {above_a[lane], data_a[8*lane+:8]} = out_a[9*lane+:9];
                assign {above_b[lane], data_b[8*lane+:8]} = out_b[9*lane+:9];
            end else begin
                assign words_a[9*lane+:9] = 9'd0;
                assign words_b[9*lane+:9] = 9'd0;
            end
        end
    endgenerate
    assign {DOPADOP, DOADO} = {above_a[3:0], data_a[31:0]};
    assign DOBDO = SIDE_BY_SIDE ? data_a[63:32] : data_b[31:0];
    assign DOPBDOP = SIDE_BY_SIDE ? above_a[7:4] : above_b[3:0];
    block_ram #(
        15,
        READ_WIDTH_A,
        READ_WIDTH_B,
        WRITE_WIDTH_A,
        WRITE_WIDTH_B,
        WRITE_MODE_A,
        WRITE_MODE_B
    ) ram (
        .clk(CLKARDCLK),
        .address_a(ADDRARDADDR[14:0]),
        .address_b(ADDRBWRADDR[14:0]),
        .enable_a(ENARDEN),
        .enable_b(ENBWREN),
        .reset_a(RSTRAMARSTRAM),
        .reset_b(RSTRAMB),
        .write_a({4'd0, WEA}),
        .write_b(WEBWE),
        .in_a(words_a),
        .in_b(words_b),
        .out_a(out_a),
        .out_b(out_b)
    );
endmodule
